"""When checkpoints are taken: beside the training, which waits for no disk."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sumgrad.cluster.training.state import EpochReport, Snapshot, TrainingState
from sumgrad.jobs.runs.checkpoints import Checkpoint, CheckpointStore


@dataclass(frozen=True)
class CheckpointInterval:
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
        open_folder: Callable[[], AbstractContextManager[CheckpointStore | None]],
        job: Mapping[str, Any],
        interval: CheckpointInterval,
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

    def resume_from(self, checkpoint: Checkpoint) -> None:
        """The run begins here: nothing is due yet, and the best is what it was."""
        self._last_step = checkpoint.snapshot.step
        self._lowest_loss = checkpoint.lowest_loss

    def boundary(self, state: TrainingState, report: EpochReport | None) -> None:
        """Take a snapshot if one is due; see `sumgrad.cluster.training.driver.ParameterDriver`."""
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
