"""Checkpoints: whole or not there, the newest that is as it was written, and the best."""

import errno
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.state import EpochReport, Snapshot, TrainingState
from jobs import checkpoints
from jobs.checkpoints import (
    ARRAYS,
    STATE,
    Checkpoint,
    Checkpointer,
    CheckpointFolder,
    Interval,
    read_checkpoint,
)
from jobs.errors import CheckpointError
from tests.disks import fill, small_disk
from tests.fuzzing import cases, only

JOB = {"data": "abc", "spec": {"seed": 3}}


def checkpoint(step: int, epoch: int = 0) -> Checkpoint:
    arrays = {
        "W": np.arange(5, dtype=np.float32) * step,
        "good": np.zeros(5, np.float32),
        "memory.step": np.array(float(step)),
    }
    facts: dict[str, Any] = {"step": step, "progress": {"epoch": epoch, "loss": 1 / 3}}
    return Checkpoint(Snapshot(arrays, facts), JOB)


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "checkpoints", keep=2)


@pytest.fixture
def said() -> list[str]:
    return []


def names(folder: CheckpointFolder) -> list[str]:
    return sorted(path.name for path in folder.folder.iterdir())


def test_what_is_written_is_read(folder: CheckpointFolder) -> None:
    written = checkpoint(7, 2)
    read = read_checkpoint(folder.write(written))
    assert (read.job, read.snapshot.facts) == (JOB, written.snapshot.facts)
    assert read.snapshot.arrays.keys() == written.snapshot.arrays.keys()
    for name, array in written.snapshot.arrays.items():
        again = read.snapshot.arrays[name]
        assert (again.dtype, again.shape) == (array.dtype, array.shape)
        assert again.tobytes() == array.tobytes()


def test_the_last_ones_and_the_best_are_kept(folder: CheckpointFolder) -> None:
    for step in range(1, 7):
        folder.write(checkpoint(step, step), is_best=step in (1, 3))
    assert names(folder) == [
        "step-000000003-epoch-000003.best",
        "step-000000005-epoch-000005",
        "step-000000006-epoch-000006",
    ]


def test_what_an_ended_process_left_unfinished_is_removed(folder: CheckpointFolder) -> None:
    folder.folder.mkdir()
    (folder.folder / ".step-000000001-epoch-000000.1234.unfinished").mkdir()
    assert folder.newest(print) is None
    folder.write(checkpoint(2))
    assert names(folder) == ["step-000000002-epoch-000000"]


def test_the_same_boundary_may_be_written_again(folder: CheckpointFolder) -> None:
    path = folder.write(checkpoint(2))
    (path / ARRAYS).write_bytes(b"")
    assert read_checkpoint(folder.write(checkpoint(2))).snapshot.step == 2
    before = (path / STATE).stat().st_mtime_ns
    folder.write(checkpoint(2))
    assert (path / STATE).stat().st_mtime_ns == before, "it was whole, and is left alone"
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
    (path / STATE).write_text(text.replace('"format": 1', '"format": 7'))


def damage_depth(path: Path) -> None:
    (path / STATE).write_text("[" * 100_000)


DAMAGES = [damage_cut, damage_bit, damage_fact, damage_missing, damage_format, damage_depth]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_newest_one_is_told_and_the_one_before_taken(
    folder: CheckpointFolder, said: list[str], damage: Callable[[Path], None]
) -> None:
    first = folder.write(checkpoint(1))
    damage(folder.write(checkpoint(2)))
    found = folder.newest(said.append)
    assert found is not None
    assert found.snapshot.step == 1
    (line,) = said
    assert line.startswith("WARNING: ")
    assert "step-000000002" in line
    assert folder.paths() == [first], "the damaged one takes no other's place"
    damage(first) if damage is not damage_fact else damage_cut(first)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
            folder.newest(said.append)


@pytest.mark.parametrize("keep", [1, 2])
def test_a_run_that_went_back_keeps_what_it_writes(
    tmp_path: Path, said: list[str], keep: int
) -> None:
    folder = CheckpointFolder(tmp_path, keep)
    folder.write(checkpoint(1), is_best=True)
    for step in (8, 9):
        damage_cut(folder.write(checkpoint(step)))
    assert folder.newest(said.append) is not None
    written = [folder.write(checkpoint(step)) for step in (2, 3)]
    assert folder.paths()[:keep] == written[::-1][:keep]


def test_a_checkpoint_that_is_found_alone_says_whose_it_is(tmp_path: Path) -> None:
    run = {"run_id": "abc", "mlflow_run_id": "def", "spec": "seed: 3"}
    path = CheckpointFolder(tmp_path, run=run).write(checkpoint(1))
    assert read_checkpoint(path).run == run


@cases(600)
@given(data=st.data())
def test_no_damage_is_anything_but_a_declared_error_or_harmless(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = CheckpointFolder(tmp_path_factory.mktemp("fuzz"))
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
        assert (read.job, read.snapshot.facts) == (JOB, checkpoint(3).snapshot.facts)


def state(step: int) -> TrainingState:
    W = np.full(4, step, np.float32)
    return TrainingState(W, W.copy(), W.copy(), {}, step=step)


def report(loss: float) -> EpochReport:
    return EpochReport(1, 1, loss, None, 0.0, 0.1, 1, 1.0)


def checkpointer(folder: CheckpointFolder, said: list[str], interval: Interval) -> Checkpointer:
    return Checkpointer(lambda: nullcontext(folder), JOB, interval, said.append)


def test_they_come_every_so_many_steps(folder: CheckpointFolder, said: list[str]) -> None:
    writer = checkpointer(CheckpointFolder(folder.folder, keep=99), said, Interval(3, None))
    for step in range(1, 10):
        writer.boundary(state(step), None)
        while writer._is_busy():
            threading.Event().wait(0.001)
    writer.close()
    assert [int(name[5:14]) for name in names(folder)] == [3, 6, 9]


def test_the_best_epoch_is_kept_whatever_the_interval(
    folder: CheckpointFolder, said: list[str]
) -> None:
    writer = checkpointer(folder, said, Interval(None, None))
    for step, loss in enumerate((3.0, 1.0, 2.0, 1.5), start=1):
        writer.boundary(state(step), report(loss))
    last = writer.close(state(5).snapshot())
    assert last is not None
    assert names(folder)[-2:] == ["step-000000002-epoch-000000.best", "step-000000005-epoch-000000"]


def test_a_run_that_goes_on_knows_its_best(folder: CheckpointFolder, said: list[str]) -> None:
    writer = checkpointer(folder, said, Interval(None, None))
    for step, loss in enumerate((3.0, 1.0, 2.0), start=1):
        writer.boundary(state(step), report(loss))
    writer.close(state(3).snapshot())
    newest = folder.newest(said.append)
    assert newest is not None
    assert newest.lowest_loss == 1.0
    writer = checkpointer(folder, said, Interval(None, None))
    writer.goes_on_from(newest)
    writer.boundary(state(4), report(1.5))
    writer.close()
    assert [int(name[5:14]) for name in names(folder) if name.endswith(".best")] == [2]
    writer = checkpointer(folder, said, Interval(None, None))
    writer.goes_on_from(newest)
    writer.boundary(state(5), report(0.5))
    writer.close()
    assert [int(name[5:14]) for name in names(folder) if name.endswith(".best")] == [5]


def test_whatever_keeps_one_from_being_written_the_next_is_tried(
    folder: CheckpointFolder, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = checkpointer(folder, said, Interval(1, None))
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
    folder: CheckpointFolder, said: list[str]
) -> None:
    go_on, writing = threading.Event(), threading.Event()

    @contextmanager
    def slow() -> Iterator[CheckpointFolder]:
        writing.set()
        assert go_on.wait(10)
        yield folder

    writer = Checkpointer(slow, JOB, Interval(1, None), said.append)
    writer.boundary(state(1), None)
    assert writing.wait(10)
    writer.abandon()
    go_on.set()
    writer._thread.join(10)
    assert len(names(folder)) == 1


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 256) as place:
        yield place


def test_a_disk_that_is_really_full_or_read_only(disk: Path, said: list[str]) -> None:
    folder = CheckpointFolder(disk / "checkpoints")
    writer = checkpointer(folder, said, Interval(1, None))
    first = writer.close(state(1).snapshot())
    assert first is not None
    filling = fill(disk)
    assert checkpointer(folder, said, Interval(1, None)).close(state(2).snapshot()) is None
    assert "No space left on device" in said[0]
    assert names(folder) == [first.name]
    assert read_checkpoint(first).snapshot.step == 1
    filling.unlink()
    assert checkpointer(folder, said, Interval(1, None)).close(state(3).snapshot()) is not None
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert checkpointer(folder, said, Interval(1, None)).close(state(4).snapshot()) is None
    assert "Read-only file system" in said[1]
    assert len(folder.paths()) == 2


def test_training_waits_for_no_disk(folder: CheckpointFolder, said: list[str]) -> None:
    """While one is being written the others are left out, and the last one is not."""
    go_on, writing = threading.Event(), threading.Event()

    @contextmanager
    def slow() -> Iterator[CheckpointFolder]:
        writing.set()
        assert go_on.wait(10)
        yield folder

    writer = Checkpointer(slow, JOB, Interval(1, None), said.append)
    writer.boundary(state(1), None)
    assert writing.wait(10)
    for step in range(2, 50):
        writer.boundary(state(step), None)
    go_on.set()
    writer.close(state(50).snapshot())
    assert [int(name[5:14]) for name in names(folder)] == [1, 50]


def test_a_full_disk_is_told_once_and_leaves_earlier_ones(
    folder: CheckpointFolder, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = folder.write(checkpoint(1))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(first))

    writer = checkpointer(folder, said, Interval(1, None))
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
