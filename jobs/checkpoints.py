"""Checkpoints: snapshots of a run on disk, from which it goes on after any end.

A checkpoint is a folder of two files: ``arrays.safetensors``, and ``state.json`` with everything
else and the SHA-256 of both. It is written beside its place, brought to the disk and then renamed,
so that it is whole or not there; and it is read back only if both checksums are right. Nothing is
pickled. The folder's name says which step it is of, and whether it was the best so far:
``step-000000120-epoch-000003``, ``step-000000120-epoch-000004.best``. One that was found damaged is
set aside as ``….damaged``.
"""

import contextlib
import hashlib
import json
import math
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from cluster.state import EpochReport, Snapshot, TrainingState
from jobs.durable import is_unfinished, write_folder
from jobs.errors import CheckpointError
from jobs.room import expect_room_for_file, read_small

FORMAT = 1
ARRAYS = "arrays.safetensors"
STATE = "state.json"
_BEST = ".best"
_NAME = re.compile(r"step-(\d{9,})-epoch-(\d{6,})(\.best)?")
#: A state.json longer than this is none of ours.
_LONGEST_STATE = 1 << 24


@dataclass(frozen=True)
class Checkpoint:
    """A snapshot, and the job that it belongs to.

    Attributes:
        snapshot: Arrays and position.
        job: What the run is identified by; see `jobs.identity`.
        lowest_loss: Of the best checkpoint so far; infinite before the first.
        run: Whose it is, for people and for a folder that is found alone: ids and the whole spec.
    """

    snapshot: Snapshot
    job: Mapping[str, Any]
    lowest_loss: float = math.inf
    run: Mapping[str, Any] = field(default_factory=dict)


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        folder: Made when the first one is written.
        keep: So many of the last ones are kept, and the best.
        run: See `Checkpoint.run`.
    """

    def __init__(
        self, folder: Path, keep: int = 2, run: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self.folder = folder
        self._keep = keep
        self._run = run

    def write(self, checkpoint: Checkpoint, *, is_best: bool = False) -> Path:
        """Write a checkpoint, and remove those that are not to be kept.

        Raises:
            OSError: It could not be written; the others are untouched.
        """
        snapshot = checkpoint.snapshot
        epoch = int(snapshot.facts["progress"]["epoch"])
        name = f"step-{snapshot.step:09d}-epoch-{epoch:06d}{_BEST if is_best else ''}"
        path = self.folder / name
        if path.exists() and not _is_whole(path):
            _set_aside(path)
        if not path.exists():
            # What is there already is of the same step of the same job, and so the same.
            write_folder(path, lambda place: _write(place, replace(checkpoint, run=self._run)))
        self._prune(path)
        return path

    def paths(self) -> list[Path]:
        """Whole checkpoints, the newest first."""
        if not self.folder.is_dir():
            return []
        named = [(order, path) for path in self.folder.iterdir() if (order := _order(path))]
        return [path for _, path in sorted(named, reverse=True)]

    def newest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that is as it was written; others are set aside.

        Args:
            warn: Takes a line for each of those.

        Returns:
            None if there has been none.

        Raises:
            CheckpointError: There are some, all of them damaged.
        """
        paths = self.paths()
        for place, path in enumerate(paths):
            try:
                checkpoint = read_checkpoint(path)
            except CheckpointError as error:
                warn(f"WARNING: {error.message}; the one before it is taken")
                continue
            for damaged in paths[:place]:
                _set_aside(damaged)
            return checkpoint
        if paths:
            raise CheckpointError(
                f"none of the {len(paths)} checkpoints in {self.folder} can be used",
                hint="train it again from the beginning: sumgrad train",
            )
        return None

    def _prune(self, written: Path) -> None:
        paths = self.paths()
        best = [path for path in paths if path.suffix == _BEST]
        for path in set(paths) - set(paths[: self._keep]) - set(best[:1]) - {written}:
            shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.iterdir():
            if is_unfinished(path):
                # Of a process that ended while it wrote: there is one writer at a time.
                shutil.rmtree(path, ignore_errors=True)


def _set_aside(path: Path) -> None:
    """Take a damaged one out of the way, and leave it to whoever wants to look at it."""
    with contextlib.suppress(OSError):
        path.rename(path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.damaged"))


def _is_whole(path: Path) -> bool:
    try:
        read_checkpoint(path)
    except CheckpointError:
        return False
    return True


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and check that it is the one that was written.

    Raises:
        CheckpointError: It is not; the message names the file.
    """
    try:
        return _read(path)
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
        raise CheckpointError(f"{error.filename or path} {why}") from error
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}") from error


def _read(path: Path) -> Checkpoint:
    written = json.loads(read_small(path / STATE, _LONGEST_STATE))
    content, sums = written["content"], written["sha256"]
    if written["format"] != FORMAT:
        raise CheckpointError(
            f"{path / STATE} has format {written['format']!r}, this sumgrad reads {FORMAT}"
        )
    expect_room_for_file(path / ARRAYS)
    arrays = (path / ARRAYS).read_bytes()
    for name, data in ((STATE, _canonical(content)), (ARRAYS, arrays)):
        if sums[name] != _sha256(data):
            raise CheckpointError(f"{path / name} was altered: its checksum is not right")
    lowest = content["lowest_loss"]
    return Checkpoint(
        Snapshot(load(arrays), content["facts"]),
        content["job"],
        math.inf if lowest is None else float(lowest),
        content["run"],
    )


def _write(place: Path, checkpoint: Checkpoint) -> None:
    snapshot = checkpoint.snapshot
    # Not ascontiguousarray, which gives a number a dimension.
    arrays = {name: np.asarray(array, order="C") for name, array in snapshot.arrays.items()}
    save_file(arrays, place / ARRAYS)
    lowest = checkpoint.lowest_loss
    content = {
        "job": dict(checkpoint.job),
        "run": dict(checkpoint.run),
        "facts": dict(snapshot.facts),
        # JSON has no infinity.
        "lowest_loss": lowest if math.isfinite(lowest) else None,
    }
    sums = {
        ARRAYS: _sha256((place / ARRAYS).read_bytes()),
        STATE: _sha256(_canonical(content)),
    }
    text = json.dumps({"format": FORMAT, "sha256": sums, "content": content}, indent=1)
    (place / STATE).write_text(text + "\n", encoding="utf-8")


def _canonical(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _order(path: Path) -> tuple[int, int] | None:
    match = _NAME.fullmatch(path.name)
    return (int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True)
class Interval:
    """When checkpoints are due.

    Args:
        steps: After so many steps, or None.
        seconds: After so many seconds, or None.
    """

    steps: int | None = None
    seconds: float | None = 60.0


class Checkpointer:
    """Takes snapshots when they are due, and writes them in a thread of its own.

    Training waits for a copy of the arrays and for nothing else. While one checkpoint is being
    written no other is begun, so that with a slow disk they come less often.

    Args:
        open_folder: Gives the folder, which stays where it is meanwhile. None for a run that could
            not begin, which is told elsewhere.
        job: What the run is identified by.
        interval: When.
        warn: Takes a line when writing begins to fail, and one when it works again.
    """

    def __init__(
        self,
        open_folder: Callable[[], AbstractContextManager[CheckpointFolder | None]],
        job: Mapping[str, Any],
        interval: Interval,
        warn: Callable[[str], None],
    ) -> None:
        self._open_folder = open_folder
        self._job = job
        self._interval = interval
        self._warn = warn
        self._last_step, self._last_time = 0, time.monotonic()
        self._lowest_loss = math.inf
        self._failing = False
        self._changed = threading.Condition()
        #: Guarded by `_changed`: what is to be written, the best apart from the latest.
        self._waiting: dict[bool, Checkpoint] = {}
        self._writing = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def goes_on_from(self, checkpoint: Checkpoint) -> None:
        """The run begins here: nothing is due yet, and the best is what it was."""
        self._last_step = checkpoint.snapshot.step
        self._lowest_loss = checkpoint.lowest_loss

    def boundary(self, state: TrainingState, report: EpochReport | None) -> None:
        """Take a snapshot if one is due; see `cluster.driver.ParameterDriver`."""
        if report is not None:
            loss = report.validation.loss if report.validation else report.train_loss
            if loss < self._lowest_loss:
                self._lowest_loss = loss
                self._put(state, is_best=True)
                return
        if self._is_due(state.step) and not self._is_busy():
            self._put(state, is_best=False)

    def _is_due(self, step: int) -> bool:
        steps, seconds = self._interval.steps, self._interval.seconds
        return (steps is not None and step - self._last_step >= steps) or (
            seconds is not None and time.monotonic() - self._last_time >= seconds
        )

    def _is_busy(self) -> bool:
        with self._changed:
            return self._writing or bool(self._waiting)

    def _put(self, state: TrainingState, *, is_best: bool) -> None:
        checkpoint = self._checkpoint(state.snapshot())
        self._last_step, self._last_time = state.step, time.monotonic()
        with self._changed:
            self._waiting[is_best] = checkpoint
            self._changed.notify_all()

    def _checkpoint(self, snapshot: Snapshot) -> Checkpoint:
        return Checkpoint(snapshot, self._job, self._lowest_loss)

    def abandon(self) -> None:
        """Write nothing more; whatever is being written is left to its thread."""
        with self._changed:
            self._waiting.clear()
            self._closing = True
            self._changed.notify_all()

    def close(self, last: Snapshot | None = None) -> Path | None:
        """Write what waits and then the last one, if given; ends the thread.

        Returns:
            Where the last one is; None if it could not be written.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        return None if last is None else self._write(self._checkpoint(last), is_best=False)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                # The best may wait no longer, as the next best would take its place.
                is_best = max(self._waiting)
                checkpoint = self._waiting.pop(is_best)
                self._writing = True
            self._write(checkpoint, is_best=is_best)

    def _write(self, checkpoint: Checkpoint, *, is_best: bool) -> Path | None:
        try:
            with self._open_folder() as folder:
                if folder is None:
                    return None
                path = folder.write(checkpoint, is_best=is_best)
        except Exception as error:  # noqa: BLE001 - whatever it is, training goes on without
            if not self._failing:
                step = checkpoint.snapshot.step
                self._warn(
                    f"WARNING: the checkpoint of step {step} could not be written: "
                    f"{_why(error)}; training goes on, and earlier checkpoints stand"
                )
            self._failing = True
            return None
        if self._failing:
            self._warn("checkpoints are written again")
        self._failing = False
        return path


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the disk'}: {error.strerror}"
    return str(error).partition("\n")[0] or type(error).__name__
