"""When checkpoints are taken and written, and what a disk that refuses them costs."""

import errno
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest

from sumgrad.cluster.training.state import EpochReport, TrainingState
from sumgrad.jobs.runs import checkpoints
from sumgrad.jobs.runs.checkpointer import Checkpointer, CheckpointInterval
from sumgrad.jobs.runs.checkpoints import CheckpointStore, read_checkpoint
from tests.disks import fill, small_disk
from tests.jobs.runs.test_checkpoints import JOB, checkpoint, names


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep=2)


@pytest.fixture
def said() -> list[str]:
    return []


def state(step: int) -> TrainingState:
    W = np.full(4, step, np.float32)
    return TrainingState(W, W.copy(), W.copy(), {}, step=step)


def report(loss: float) -> EpochReport:
    return EpochReport(1, 1, loss, None, 0.0, 0.1, 1, 1.0)


def checkpointer(
    folder: CheckpointStore, said: list[str], interval: CheckpointInterval
) -> Checkpointer:
    return Checkpointer(lambda: nullcontext(folder), JOB, interval, said.append)


def writing_slowly(
    folder: CheckpointStore, said: list[str]
) -> tuple[Checkpointer, threading.Event]:
    """One that is writing its first checkpoint, until it is let go on."""
    go_on, writing = threading.Event(), threading.Event()

    @contextmanager
    def slow() -> Iterator[CheckpointStore]:
        writing.set()
        assert go_on.wait(10)
        yield folder

    writer = Checkpointer(slow, JOB, CheckpointInterval(1, None), said.append)
    writer.boundary(state(1), None)
    assert writing.wait(10)
    return writer, go_on


def test_they_come_every_so_many_steps(folder: CheckpointStore, said: list[str]) -> None:
    writer = checkpointer(
        CheckpointStore(folder.folder, keep=99), said, CheckpointInterval(3, None)
    )
    for step in range(1, 10):
        writer.boundary(state(step), None)
        while writer._is_busy():
            threading.Event().wait(0.001)
    writer.close()
    assert [int(name[5:14]) for name in names(folder)] == [3, 6, 9]


def test_the_best_epoch_is_kept_whatever_the_interval(
    folder: CheckpointStore, said: list[str]
) -> None:
    writer = checkpointer(folder, said, CheckpointInterval(None, None))
    for step, loss in enumerate((3.0, 1.0, 2.0, 1.5), start=1):
        writer.boundary(state(step), report(loss))
    last = writer.close(state(5).snapshot())
    assert last is not None
    assert names(folder)[-2:] == ["step-000000002-epoch-000000.best", "step-000000005-epoch-000000"]


def test_a_run_that_goes_on_knows_its_best(folder: CheckpointStore, said: list[str]) -> None:
    writer = checkpointer(folder, said, CheckpointInterval(None, None))
    for step, loss in enumerate((3.0, 1.0, 2.0), start=1):
        writer.boundary(state(step), report(loss))
    writer.close(state(3).snapshot())
    newest = folder.newest(said.append)
    assert newest is not None
    assert newest.lowest_loss == 1.0
    writer = checkpointer(folder, said, CheckpointInterval(None, None))
    writer.resume_from(newest)
    writer.boundary(state(4), report(1.5))
    writer.close()
    assert [int(name[5:14]) for name in names(folder) if name.endswith(".best")] == [2]
    writer = checkpointer(folder, said, CheckpointInterval(None, None))
    writer.resume_from(newest)
    writer.boundary(state(5), report(0.5))
    writer.close()
    assert [int(name[5:14]) for name in names(folder) if name.endswith(".best")] == [5]


def test_whatever_keeps_one_from_being_written_the_next_is_tried(
    folder: CheckpointStore, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = checkpointer(folder, said, CheckpointInterval(1, None))
    with monkeypatch.context() as broken:
        broken.setattr(checkpoints, "save_file", raise_memory_error)
        writer.boundary(state(1), None)
        while writer._is_busy():
            threading.Event().wait(0.001)
    assert "could not be written: MemoryError" in said[0]
    writer.boundary(state(2), None)
    writer.close()
    assert [int(name[5:14]) for name in names(folder)] == [2]


def raise_memory_error(*_: object) -> None:
    raise MemoryError


def test_who_is_in_a_hurry_does_not_wait_for_the_disk(
    folder: CheckpointStore, said: list[str]
) -> None:
    writer, go_on = writing_slowly(folder, said)
    writer.abandon()
    go_on.set()
    writer._thread.join(10)
    assert len(names(folder)) == 1


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 256) as place:
        yield place


def test_a_disk_that_is_really_full_or_read_only(disk: Path, said: list[str]) -> None:
    folder = CheckpointStore(disk / "checkpoints")
    writer = checkpointer(folder, said, CheckpointInterval(1, None))
    first = writer.close(state(1).snapshot())
    assert first is not None
    filling = fill(disk)
    assert (
        checkpointer(folder, said, CheckpointInterval(1, None)).close(state(2).snapshot()) is None
    )
    assert "No space left on device" in said[0]
    assert names(folder) == [first.name]
    assert read_checkpoint(first).snapshot.step == 1
    filling.unlink()
    assert (
        checkpointer(folder, said, CheckpointInterval(1, None)).close(state(3).snapshot())
        is not None
    )
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert (
        checkpointer(folder, said, CheckpointInterval(1, None)).close(state(4).snapshot()) is None
    )
    assert "Read-only file system" in said[1]
    assert len(folder.paths()) == 2


def test_training_waits_for_no_disk(folder: CheckpointStore, said: list[str]) -> None:
    """While one is being written the others are left out, and the last one is not."""
    writer, go_on = writing_slowly(folder, said)
    for step in range(2, 50):
        writer.boundary(state(step), None)
    go_on.set()
    writer.close(state(50).snapshot())
    assert [int(name[5:14]) for name in names(folder)] == [1, 50]


def test_a_full_disk_is_told_once_and_leaves_earlier_ones(
    folder: CheckpointStore, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = folder.write(checkpoint(1))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(first))

    writer = checkpointer(folder, said, CheckpointInterval(1, None))
    with monkeypatch.context() as broken:
        broken.setattr(checkpoints, "save_file", full)
        assert writer.close(state(2).snapshot()) is None
        assert writer.close(state(3).snapshot()) is None
    (line,) = said
    assert "No space left on device" in line
    assert "earlier checkpoints stand" in line
    assert names(folder) == [first.name]
    assert read_checkpoint(first).snapshot.step == 1
    assert writer.close(state(4).snapshot()) is not None
    assert said[1:] == ["checkpoints are written again"]
