"""When checkpoints are taken, and the thread that writes them."""

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sumgrad.cluster.training.state import EpochReport, Snapshot, TrainingState
from sumgrad.jobs.runs.checkpoints import Checkpoint, CheckpointStore
from sumgrad.jobs.spec.schema import CheckpointSpec
from sumgrad.jobs.support.text import describe_error

_logger = logging.getLogger(__name__)


class Checkpointer:
    """The writer of checkpoints: it takes snapshots when they are due, and writes them in a thread.

    Training waits for a copy of the arrays only. While a checkpoint is being written no other is
    taken, so a slow disk makes them less frequent. The thread calls `before_write` before each.
    A resumed run continues with the step and the lowest loss of the checkpoint `start`.
    """

    def __init__(
        self,
        store: CheckpointStore,
        signature: Mapping[str, Any],
        spec: CheckpointSpec,
        start: Checkpoint | None = None,
        before_write: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._signature = signature
        self._spec = spec
        self._before_write = before_write
        self._last_step, self._last_time = 0, time.monotonic()
        self._lowest_loss = math.inf
        if start is not None:
            self._last_step, self._lowest_loss = start.snapshot.step, start.lowest_loss
        self._is_failing = False
        self._changed = threading.Condition()
        #: Guarded by `_changed`, as the two below: what to write, the best apart from the latest.
        self._pending: dict[bool, Checkpoint] = {}
        self._is_writing = False
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def boundary(self, state: TrainingState, report: EpochReport | None) -> None:
        """Take a snapshot if one is due; the driver calls this between two steps."""
        if report is not None:
            loss = report.validation.loss if report.validation else report.train_loss
            if loss < self._lowest_loss:
                self._lowest_loss = loss
                self._put(state, is_best=True)
                return
        if self._is_due(state.step):
            self._put(state, is_best=False)

    def _is_due(self, step: int) -> bool:
        steps, seconds = self._spec.every_steps, self._spec.every_seconds
        if (steps is None or step - self._last_step < steps) and (
            seconds is None or time.monotonic() - self._last_time < seconds
        ):
            return False
        with self._changed:
            return not self._is_writing and not self._pending

    def _put(self, state: TrainingState, *, is_best: bool) -> None:
        checkpoint = Checkpoint(state.snapshot(), self._signature, self._lowest_loss)
        self._last_step, self._last_time = state.step, time.monotonic()
        with self._changed:
            self._pending[is_best] = checkpoint
            self._changed.notify_all()

    def abandon(self) -> None:
        """Stop writing, without waiting for a checkpoint that is being written."""
        with self._changed:
            self._pending.clear()
            self._is_closing = True
            self._changed.notify_all()

    def close(self, last: Snapshot | None = None) -> Path | None:
        """Write what is pending and then the last snapshot, if given, and end the thread.

        Return the last checkpoint, or None if it could not be written.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()
        if last is None:
            return None
        return self._write(Checkpoint(last, self._signature, self._lowest_loss), is_best=False)

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
