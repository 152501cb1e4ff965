"""The journal: nothing lost, nothing twice, whatever ends the process and wherever."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.tracking.backlog import Journal, Point


def points(first: int, last: int) -> list[Point]:
    return [Point("loss", 1 / step, step, 1000 + step) for step in range(first, last + 1)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_points_outlive_the_process(path: Path, said: list[str]) -> None:
    journal = Journal(path, said.append)
    journal.append(points(1, 5))
    assert journal.first(2) == points(1, 2)
    journal.settle(2)
    journal.append(points(6, 7))
    again = Journal(path, said.append)
    assert len(again) == 5
    assert again.first(99) == points(3, 7)
    again.settle(5)
    assert len(Journal(path, said.append)) == 0
    assert said == []


def test_a_value_that_a_resumed_run_repeats_is_known(path: Path, said: list[str]) -> None:
    Journal(path, said.append).append(points(1, 3))
    again = Journal(path, said.append)
    again.append([Point("loss", 99.0, 3, 5), Point("accuracy", 0.5, 3, 5), *points(4, 4)])
    assert again.first(99) == [*points(1, 3), Point("accuracy", 0.5, 3, 5), *points(4, 4)]


@pytest.mark.parametrize("torn", [b'["loss", 0.5, 4', b"\xff\xfe", b'["loss"]\n', b"null\n"])
def test_a_line_that_is_none_is_dropped(path: Path, said: list[str], torn: bytes) -> None:
    Journal(path, said.append).append(points(1, 3))
    with path.open("ab") as file:
        file.write(torn)
    again = Journal(path, said.append)
    again.append(points(4, 5))
    assert again.first(99) == points(1, 5)
    assert Journal(path, said.append).first(99) == points(1, 5)


def test_an_unreadable_position_means_sending_again(path: Path, said: list[str]) -> None:
    journal = Journal(path, said.append)
    journal.append(points(1, 3))
    journal.settle(2)
    for nonsense in ("", "x", "-3", "999999"):
        path.with_suffix(".sent").write_text(nonsense)
        assert Journal(path, said.append).first(9) == points(1, 3)


def test_a_full_disk_loses_nothing(
    path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(path, said.append)
    journal.append(points(1, 2))
    with monkeypatch.context() as broken:
        broken.setattr(journal, "_path", Path("/dev/full"))
        journal.append(points(3, 4))
    assert "No space left" in said[0]
    assert journal.first(9) == points(1, 4)
    journal.settle(3)
    assert journal.first(9) == points(4, 4)
    journal.append(points(5, 5))
    assert journal.first(9) == points(4, 5)
    assert Journal(path, said.append).first(9)[-2:] == points(4, 5)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(cut=st.integers(0, 400), sent=st.integers(-5, 500))
def test_it_opens_whatever_was_cut(
    cut: int, sent: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "metrics.jsonl"
    Journal(path, print).append(points(1, 12))
    path.write_bytes(path.read_bytes()[:cut])
    path.with_suffix(".sent").write_text(str(sent))
    journal = Journal(path, print)
    kept = [json.loads(line)[2] for line in path.read_text().splitlines()]
    assert kept == list(range(1, len(kept) + 1))
    left = [point.step for point in journal.first(99)]
    assert len(left) == len(journal)
    assert left == kept[len(kept) - len(left) :]
