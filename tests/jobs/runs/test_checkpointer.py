"""When checkpoints are taken and written, and what happens when a disk refuses them."""

import errno
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sumgrad.cluster.training.state import TrainingState
from sumgrad.jobs.runs import checkpoints
from sumgrad.jobs.runs.checkpointer import Checkpointer
from sumgrad.jobs.runs.checkpoints import CheckpointStore, read_checkpoint
from sumgrad.jobs.spec.schema import CheckpointSpec
from tests.disks import fill, small_disk
from tests.jobs.runs.test_checkpoints import JOB, checkpoint, names

NEVER = CheckpointSpec(every_seconds=None)
EACH_STEP = CheckpointSpec(every_steps=1, every_seconds=None)


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep=2)


@pytest.fixture(autouse=True)
def log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="sumgrad")


def state(step: int) -> TrainingState:
    W = np.full(4, step, np.float32)
    return TrainingState(W, W.copy(), W.copy(), {}, step=step)


def steps(folder: CheckpointStore, suffix: str = "") -> list[int]:
    """The steps of the checkpoints whose names end with a suffix."""
    return [int(name[5:14]) for name in names(folder) if name.endswith(suffix)]


def wait_until_idle(writer: Checkpointer) -> None:
    writer._writing.result(10)


def slow_writer(folder: CheckpointStore) -> tuple[Checkpointer, threading.Event]:
    """A checkpointer that writes its first checkpoint until the event is set."""
    proceed, writing = threading.Event(), threading.Event()

    def wait() -> None:
        writing.set()
        assert proceed.wait(10)

    writer = Checkpointer(folder, JOB, EACH_STEP, before_write=wait)
    writer.on_step_boundary(state(1))
    assert writing.wait(10)
    return writer, proceed


def test_checkpoints_are_written_at_the_interval(folder: CheckpointStore) -> None:
    store = CheckpointStore(folder.folder, keep=99)
    writer = Checkpointer(store, JOB, CheckpointSpec(every_steps=3, every_seconds=None))
    for step in range(1, 10):
        writer.on_step_boundary(state(step))
        wait_until_idle(writer)
    writer.close()
    assert steps(folder) == [3, 6, 9]


def test_the_interval_of_a_resumed_run_counts_from_where_it_resumed(
    folder: CheckpointStore,
) -> None:
    writer = Checkpointer(folder, JOB, CheckpointSpec(every_steps=3, every_seconds=None), 7)
    for step in (8, 9, 10):
        writer.on_step_boundary(state(step))
    writer.close()
    assert steps(folder) == [10]


def test_the_best_epoch_is_saved_whatever_the_interval(folder: CheckpointStore) -> None:
    writer = Checkpointer(folder, JOB, NEVER)
    for step in range(1, 5):
        writer.on_step_boundary(state(step), is_best=step <= 2)
    assert writer.close(state(5).snapshot()) is not None
    assert names(folder)[-2:] == ["step-000000002-epoch-000000.best", "step-000000005-epoch-000000"]


def test_after_a_failed_write_the_next_is_tried(
    folder: CheckpointStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    writer = Checkpointer(folder, JOB, EACH_STEP)
    with monkeypatch.context() as broken:
        broken.setattr(checkpoints, "write_tensors", fail)
        writer.on_step_boundary(state(1))
        wait_until_idle(writer)
    assert "could not be written: MemoryError" in caplog.messages[0]
    writer.on_step_boundary(state(2))
    writer.close()
    assert steps(folder) == [2]


def test_the_best_waits_for_the_checkpoint_before_it_and_is_replaced_by_a_better_one(
    folder: CheckpointStore,
) -> None:
    writer, proceed = slow_writer(folder)
    for step in (2, 3, 4):
        writer.on_step_boundary(state(step), is_best=step <= 3)
    proceed.set()
    wait_until_idle(writer)
    assert steps(folder) == [1]
    writer.on_step_boundary(state(5))
    wait_until_idle(writer)
    assert (steps(folder), steps(folder, ".best")) == ([1, 3], [3])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 256) as folder:
        yield folder


def test_a_disk_that_is_really_full_or_read_only(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = CheckpointStore(disk / "checkpoints")

    def write(step: int) -> Path | None:
        return Checkpointer(folder, JOB, EACH_STEP).close(state(step).snapshot())

    first = write(1)
    assert first is not None
    filling = fill(disk)
    assert write(2) is None
    assert "No space left on device" in caplog.messages[0]
    assert names(folder) == [first.name]
    assert read_checkpoint(first).snapshot.step == 1
    filling.unlink()
    assert write(3) is not None
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert write(4) is None
    assert "Read-only file system" in caplog.messages[1]
    assert len(folder.paths()) == 2


def test_training_waits_for_no_disk(folder: CheckpointStore) -> None:
    """Checkpoints that become due during a write are skipped, except the last one."""
    writer, proceed = slow_writer(folder)
    for step in range(2, 50):
        writer.on_step_boundary(state(step))
    proceed.set()
    writer.close(state(50).snapshot())
    assert steps(folder) == [1, 50]


def test_a_full_disk_is_logged_once_and_leaves_earlier_checkpoints(
    folder: CheckpointStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = folder.write(checkpoint(1))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(first))

    writer = Checkpointer(folder, JOB, EACH_STEP)
    with monkeypatch.context() as broken:
        broken.setattr(checkpoints, "write_tensors", full)
        assert writer.close(state(2).snapshot()) is None
        assert writer.close(state(3).snapshot()) is None
    (line,) = caplog.messages
    assert "No space left on device" in line
    assert "earlier checkpoints remain" in line
    assert names(folder) == [first.name]
    assert read_checkpoint(first).snapshot.step == 1
    assert writer.close(state(4).snapshot()) is not None
    assert caplog.messages[1:] == ["checkpoints are written again"]
