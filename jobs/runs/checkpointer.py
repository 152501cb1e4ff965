"""When checkpoints are taken, and the thread that writes them."""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from sumgrad.cluster.training.state import Snapshot, TrainingState
from sumgrad.jobs.runs.checkpoints import Checkpoint, CheckpointStore
from sumgrad.jobs.spec.schema import CheckpointSpec
from sumgrad.jobs.support.text import describe_error
from sumgrad.jobs.support.threads import run_in_thread

_logger = logging.getLogger(__name__)


class Checkpointer:
    """The writer of checkpoints: it takes snapshots when they are due, and writes them in a thread.

    Training waits for a copy of the arrays only. While a checkpoint is being written only the best
    so far is taken, so a slow disk makes the others less frequent. `before_write` is called before
    each is written, in the thread.
    """

    def __init__(
        self,
        store: CheckpointStore,
        signature: Mapping[str, Any],
        spec: CheckpointSpec,
        first_step: int = 0,
        before_write: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._signature = signature
        self._spec = spec
        self._before_write = before_write
        self._last_step, self._last_time = first_step, time.monotonic()
        self._is_failing = False
        #: What to write next: the best so far, the latest, or both.
        self._pending: dict[bool, Checkpoint] = {}
        #: The checkpoint that is being written, or the last one.
        self._writing: Future[Path | None] = Future()
        self._writing.set_result(None)

    def on_step_boundary(self, state: TrainingState, *, is_best: bool = False) -> None:
        """Take a snapshot if one is due or the epoch is the best, and start to write it."""
        if is_best:
            self.add_snapshot(state, is_best=True)
        is_idle = self._writing.done()
        if is_idle and not self._pending and self._is_due(state.step):
            self.add_snapshot(state)
        if is_idle and self._pending:
            self._writing = run_in_thread("checkpoint", partial(self._write, *self._pop_pending()))

    def _is_due(self, step: int) -> bool:
        steps, seconds = self._spec.every_steps, self._spec.every_seconds
        return (steps is not None and step - self._last_step >= steps) or (
            seconds is not None and time.monotonic() - self._last_time >= seconds
        )

    def add_snapshot(self, state: TrainingState, *, is_best: bool = False) -> None:
        """Take a snapshot, which the next call of `on_step_boundary` or `close` writes."""
        self._pending[is_best] = Checkpoint(state.snapshot(), self._signature)
        self._last_step, self._last_time = state.step, time.monotonic()

    def _pop_pending(self) -> tuple[Checkpoint, bool]:
        """Remove a pending checkpoint, and return it and whether it is the best."""
        # The best comes first, because the next best would replace it.
        is_best = max(self._pending)
        return self._pending.pop(is_best), is_best

    def close(self, last: Snapshot | None = None) -> Path | None:
        """Write what is pending and then the last snapshot, if given.

        Return the last checkpoint, or None if it could not be written.
        """
        self._writing.result()
        while self._pending:
            self._write(*self._pop_pending())
        if last is None:
            return None
        return self._write(Checkpoint(last, self._signature), is_best=False)

    def _write(self, checkpoint: Checkpoint, is_best: bool) -> Path | None:
        try:
            self._before_write()
            path = self._store.write(checkpoint, is_best=is_best)
        except Exception as error:  # noqa: BLE001 - training continues without this checkpoint
            if not self._is_failing:
                problem = f"the checkpoint of step {checkpoint.snapshot.step} could not be written"
                effect = "training continues, and earlier checkpoints remain"
                _logger.warning("%s: %s; %s", problem, describe_error(error), effect)
            self._is_failing = True
            return None
        if self._is_failing:
            _logger.info("checkpoints are written again")
        self._is_failing = False
        return path
