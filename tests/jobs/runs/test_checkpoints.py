"""Checkpoints are complete or absent, and the newest intact one is read."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumgrad.cluster.training.state import Snapshot
from sumgrad.jobs.errors import CheckpointError
from sumgrad.jobs.runs.checkpoints import (
    ARRAYS,
    STATE,
    Checkpoint,
    CheckpointStore,
    read_checkpoint,
)
from sumgrad.jobs.support import memory
from tests.fuzzing import cases, only

JOB = {"data": "abc", "spec": {"seed": 3}}


def checkpoint(step: int, epoch: int = 0) -> Checkpoint:
    arrays = {
        "W": np.arange(5, dtype=np.float32) * step,
        "last_finite": np.zeros(5, np.float32),
        "optimizer_state.step": np.array(float(step)),
    }
    metadata: dict[str, Any] = {"step": step, "progress": {"epoch": epoch, "loss": 1 / 3}}
    return Checkpoint(Snapshot(arrays, metadata), JOB)


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep=2)


def names(folder: CheckpointStore) -> list[str]:
    return sorted(path.name for path in folder.folder.iterdir())


def test_writing_and_reading_round_trips(folder: CheckpointStore) -> None:
    written = checkpoint(7, 2)
    read = read_checkpoint(folder.write(written))
    assert (read.signature, read.snapshot.metadata) == (JOB, written.snapshot.metadata)
    assert read.snapshot.arrays.keys() == written.snapshot.arrays.keys()
    for name, array in written.snapshot.arrays.items():
        again = read.snapshot.arrays[name]
        assert (again.dtype, again.shape) == (array.dtype, array.shape)
        assert again.tobytes() == array.tobytes()


def test_the_latest_and_the_best_are_kept(folder: CheckpointStore) -> None:
    for step in range(1, 7):
        folder.write(checkpoint(step, step), is_best=step in (1, 3))
    assert names(folder) == [
        "step-000000003-epoch-000003.best",
        "step-000000005-epoch-000005",
        "step-000000006-epoch-000006",
    ]


def test_partial_checkpoints_of_a_killed_process_are_removed(folder: CheckpointStore) -> None:
    folder.folder.mkdir()
    (folder.folder / ".step-000000001-epoch-000000.1234.unfinished").mkdir()
    assert folder.newest() is None
    folder.write(checkpoint(2))
    assert names(folder) == ["step-000000002-epoch-000000"]


def test_writing_a_step_again_replaces_only_a_damaged_checkpoint(folder: CheckpointStore) -> None:
    path = folder.write(checkpoint(2))
    (path / ARRAYS).write_bytes(b"")
    assert read_checkpoint(folder.write(checkpoint(2))).snapshot.step == 2
    before = (path / STATE).stat().st_mtime_ns
    folder.write(checkpoint(2))
    assert (path / STATE).stat().st_mtime_ns == before, "an intact checkpoint is not rewritten"
    assert [found.name for found in folder.paths()] == [path.name]


def damage_cut(path: Path) -> None:
    data = (path / ARRAYS).read_bytes()
    (path / ARRAYS).write_bytes(data[: len(data) // 2])


def damage_bit(path: Path) -> None:
    data = bytearray((path / ARRAYS).read_bytes())
    data[-1] ^= 1
    (path / ARRAYS).write_bytes(data)


def damage_fact(path: Path) -> None:
    text = (path / STATE).read_text()
    (path / STATE).write_text(text.replace('"step": 2', '"step": 9'))


def damage_missing(path: Path) -> None:
    (path / ARRAYS).unlink()


def damage_format(path: Path) -> None:
    text = (path / STATE).read_text()
    (path / STATE).write_text(text.replace('"format": 2', '"format": 7'))


def damage_depth(path: Path) -> None:
    (path / STATE).write_text("[" * 100_000)


DAMAGES = [damage_cut, damage_bit, damage_fact, damage_missing, damage_format, damage_depth]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_logged_and_the_one_before_is_read(
    folder: CheckpointStore, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    first = folder.write(checkpoint(1))
    damage(folder.write(checkpoint(2)))
    found = folder.newest()
    assert found is not None
    assert found.snapshot.step == 1
    (record,) = caplog.records
    assert (record.levelname, "step-000000002" in record.getMessage()) == ("WARNING", True)
    assert folder.paths() == [first], "the damaged one does not count"
    damage(first) if damage is not damage_fact else damage_cut(first)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
            folder.newest()


def test_a_checkpoint_that_cannot_be_read_now_is_not_damaged(
    folder: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write(checkpoint(1))
    newest = folder.write(checkpoint(2))
    with monkeypatch.context() as full:
        full.setattr(memory, "available_bytes", lambda: 1)
        for read in (folder.newest, lambda: folder.write(checkpoint(2))):
            with pytest.raises(OSError, match=r"memory free: .*step-000000002.*arrays"):
                read()
    with monkeypatch.context() as failing:
        failing.setattr(Path, "read_bytes", Mock(side_effect=OSError(errno.EIO, "I/O error")))
        with pytest.raises(OSError, match=r"I/O error: .*step-000000002"):
            folder.newest()
    assert folder.paths()[0] == newest
    assert folder.newest() is not None


@pytest.mark.parametrize("keep", [1, 2])
def test_a_run_that_went_back_keeps_what_it_writes(tmp_path: Path, keep: int) -> None:
    folder = CheckpointStore(tmp_path, keep)
    folder.write(checkpoint(1), is_best=True)
    for step in (8, 9):
        damage_cut(folder.write(checkpoint(step)))
    assert folder.newest() is not None
    written = [folder.write(checkpoint(step)) for step in (2, 3)]
    assert folder.paths()[:keep] == written[::-1][:keep]


@cases(600)
@given(data=st.data())
def test_damage_is_a_checkpoint_error_or_harmless(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = CheckpointStore(tmp_path_factory.mktemp("fuzz"))
    path = folder.write(checkpoint(3))
    file = path / data.draw(st.sampled_from([ARRAYS, STATE]))
    content = bytearray(file.read_bytes())
    where = data.draw(st.integers(0, len(content) - 1))
    with_ = data.draw(st.binary(max_size=6))
    content[where : where + data.draw(st.integers(0, 40))] = with_
    file.write_bytes(content)
    with only(CheckpointError):
        read = read_checkpoint(path)
        # White space in the JSON may differ; nothing else.
        assert read.snapshot.arrays["W"].tobytes() == checkpoint(3).snapshot.arrays["W"].tobytes()
        assert (read.signature, read.snapshot.metadata) == (JOB, checkpoint(3).snapshot.metadata)
