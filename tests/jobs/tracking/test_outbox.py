"""The journal: nothing lost, nothing twice, whatever ends the process and wherever."""

import errno
import json
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sumgrad.jobs.tracking.outbox import Journal, Point
from tests.disks import fill, small_disk


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


def test_a_torn_line_is_cut_off_in_place_even_if_the_disk_is_full(
    path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(path, said.append)
    journal.append(points(1, 3))
    journal.settle(1)
    with path.open("ab") as file:
        file.write(b'["loss", 0.5, 4')
    before = path.stat().st_ino
    with monkeypatch.context() as full:
        # Nothing may be written where there is no room: one byte, and it is gone.
        full.setattr(Path, "write_bytes", _full)
        full.setattr(Path, "write_text", _full)
        again = Journal(path, said.append)
    assert path.stat().st_ino == before
    assert again.first(99) == points(2, 3)
    assert said == []


def test_a_torn_line_of_a_journal_on_a_full_disk(tmp_path: Path, said: list[str]) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        path = disk / "metrics.jsonl"
        Journal(path, said.append).append(points(1, 200))
        with path.open("ab") as file:
            file.write(b'["loss", 0.5, 4')
        filling = fill(disk)
        assert Journal(path, said.append).first(999) == points(1, 200)
        filling.unlink()


def _full(path: Path, *_: object, **__: object) -> None:
    path.open("wb").close()
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def test_a_damaged_middle_is_left_out_beside_and_told(path: Path, said: list[str]) -> None:
    damage(path, said)
    again = Journal(path, said.append)
    assert again.first(99) == points(4, 5)
    assert said == [f"{path} was damaged, and 1 of its values are lost"]
    # The position that was recorded does not hold any more.
    assert Journal(path, said.append).first(99) == [*points(1, 1), *points(3, 5)]
    assert len(said) == 1


def test_a_repair_that_fails_leaves_everything_as_it_was(
    path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(path, said)
    before = path.read_bytes()
    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", _full)
        with pytest.raises(OSError, match="No space left"):
            Journal(path, said.append)
    assert path.read_bytes() == before
    assert list(path.parent.glob(".*")) == []
    assert Journal(path, said.append).first(99)[-2:] == points(4, 5)


def damage(path: Path, said: list[str]) -> None:
    """Leave a journal of five values, three of them delivered, the second of them damaged."""
    journal = Journal(path, said.append)
    journal.append(points(1, 5))
    journal.settle(3)
    lines = path.read_bytes().splitlines(keepends=True)
    # As long as it was, so that the position would look right.
    lines[1] = b"x" * (len(lines[1]) - 1) + b"\n"
    path.write_bytes(b"".join(lines))


def test_a_position_does_not_come_to_fit_by_chance(path: Path, said: list[str]) -> None:
    Journal(path, said.append).append(points(1, 4))
    longer = path.read_bytes()
    path.write_bytes(longer.splitlines(keepends=True)[0])
    path.with_suffix(".sent").write_text(str(len(longer)))
    Journal(path, said.append).append(points(2, 4))
    assert path.read_bytes() == longer
    assert Journal(path, said.append).first(99) == points(1, 4)


@pytest.mark.parametrize("line", [b'["loss", 0.5, 1e999, 3]\n', b"[" * 100_000 + b"\n"])
def test_lines_that_no_number_fits_are_damaged(path: Path, said: list[str], line: bytes) -> None:
    path.write_bytes(line)
    assert Journal(path, said.append).first(9) == []
    assert len(said) == 1


def test_syncing_writes_what_waits_in_memory_or_raises(
    path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(path, said.append)
    with monkeypatch.context() as broken:
        broken.setattr(journal, "_path", Path("/dev/full"))
        journal.append(points(1, 1))
        journal.append(points(2, 2))
        with pytest.raises(OSError, match="No space left"):
            journal.sync()
    assert len(said) == 1, "an outage is told once"
    journal.sync()
    assert Journal(path, said.append).first(9) == points(1, 2)
    assert said[1:] == [f"metrics are kept in {path} again"]


def test_syncing_on_a_disk_that_is_full_in_earnest(tmp_path: Path, said: list[str]) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        path = disk / "metrics.jsonl"
        journal = Journal(path, said.append)
        filling = fill(disk)
        journal.append(points(1, 200))
        with pytest.raises(OSError, match="No space left"):
            journal.sync()
        filling.unlink()
        journal.sync()
        assert Journal(path, said.append).first(999) == points(1, 200)


def test_syncing_may_happen_while_others_use_it(path: Path, said: list[str]) -> None:
    journal = Journal(path, said.append)
    done = threading.Event()

    def sync() -> None:
        while not done.is_set():
            journal.sync()

    syncing = threading.Thread(target=sync)
    syncing.start()
    for step in range(1, 301):
        journal.append(points(step, step))
        if step % 3 == 0:
            journal.settle(2)
    done.set()
    syncing.join()
    assert journal.first(999) == points(201, 300)
    assert [json.loads(line)[2] for line in path.read_text().splitlines()] == [*range(1, 301)]


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
