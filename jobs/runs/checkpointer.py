"""When checkpoints are taken, and the thread that writes them."""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sumgrad.cluster.training.state import EpochReport, Snapshot, TrainingState
from sumgrad.jobs.runs.checkpoints import Checkpoint, CheckpointStore
from sumgrad.jobs.support.text import describe_error

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointInterval:
    """When checkpoints are due.

    Args:
        steps: After this number of steps, or None.
        seconds: After this time, or None.
    """

    steps: int | None = None
    seconds: float | None = 60.0


class Checkpointer:
    """Takes snapshots when they are due, and writes them in a thread.

    Training waits for a copy of the arrays only. While a checkpoint is being written no other is
    taken, so a slow disk makes them less frequent.

    Args:
        store: Where to write.
        signature: The run's signature.
        interval: When checkpoints are due.
        before_write: Called before each write, in the writing thread.
    """

    def __init__(
        self,
        store: CheckpointStore,
        signature: Mapping[str, Any],
        interval: CheckpointInterval,
        before_write: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._signature = signature
        self._interval = interval
        self._before_write = before_write
        self._last_step, self._last_time = 0, time.monotonic()
        self._lowest_loss = math.inf
        self._is_failing = False
        self._changed = threading.Condition()
        #: Guarded by `_changed`, as the two below: what to write, the best apart from the latest.
        self._pending: dict[bool, Checkpoint] = {}
        self._is_writing = False
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def resume_from(self, checkpoint: Checkpoint) -> None:
        """Continue with the step and the lowest loss of an earlier checkpoint."""
        self._last_step = checkpoint.snapshot.step
        self._lowest_loss = checkpoint.lowest_loss

    def boundary(self, state: TrainingState, report: EpochReport | None) -> None:
        """Take a snapshot if one is due; the driver calls this between two steps."""
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
            return self._is_writing or bool(self._pending)

    def _put(self, state: TrainingState, *, is_best: bool) -> None:
        checkpoint = self._checkpoint(state.snapshot())
        self._last_step, self._last_time = state.step, time.monotonic()
        with self._changed:
            self._pending[is_best] = checkpoint
            self._changed.notify_all()

    def _checkpoint(self, snapshot: Snapshot) -> Checkpoint:
        return Checkpoint(snapshot, self._signature, self._lowest_loss)

    def abandon(self) -> None:
        """Stop writing, without waiting for a checkpoint that is being written."""
        with self._changed:
            self._pending.clear()
            self._is_closing = True
            self._changed.notify_all()

    def close(self, last: Snapshot | None = None) -> Path | None:
        """Write what is pending and then the last snapshot, if given, and end the thread.

        Returns:
            The last checkpoint; None if it could not be written.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()
        return None if last is None else self._write(self._checkpoint(last), is_best=False)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._pending or self._is_closing)
                if not self._pending:
                    return
                # The best comes first, because the next best would replace it.
                is_best = max(self._pending)
                checkpoint = self._pending.pop(is_best)
                self._is_writing = True
            self._write(checkpoint, is_best=is_best)

    def _write(self, checkpoint: Checkpoint, *, is_best: bool) -> Path | None:
        try:
            self._before_write()
            path = self._store.write(checkpoint, is_best=is_best)
        except Exception as error:  # noqa: BLE001 - training continues without this checkpoint
            if not self._is_failing:
                _logger.warning(
                    "the checkpoint of step %s could not be written: %s; training continues, and "
                    "earlier checkpoints remain",
                    checkpoint.snapshot.step,
                    describe_error(error),
                )
            self._is_failing = True
            return None
        if self._is_failing:
            _logger.info("checkpoints are written again")
        self._is_failing = False
        return path
