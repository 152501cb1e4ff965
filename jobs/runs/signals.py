"""Stopping on Ctrl-C and SIGTERM: at the next step, with the weights saved."""

import logging
import signal
import threading
from types import FrameType
from typing import Self

from sumgrad.cluster.training.stopping import StopReason
from sumgrad.jobs.errors import Interrupted

_logger = logging.getLogger(__name__)

_REASONS = {signal.SIGINT: StopReason.INTERRUPTED, signal.SIGTERM: StopReason.TERMINATED}
#: The exit codes that a shell gives to a process that one of these signals ended.
EXIT_CODES = {StopReason.INTERRUPTED: 130, StopReason.TERMINATED: 143}


class StopRequest:
    """Signal handlers, as a context: the first signal sets the reason to stop, a second exits."""

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self._previous = {number: signal.getsignal(number) for number in _REASONS}

    def __enter__(self) -> Self:
        for number in _REASONS:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        reason = _REASONS[signal.Signals(number)]
        if self.reason is not None:
            raise SystemExit(EXIT_CODES[reason])
        self.reason = reason
        # The signal may have interrupted a write to the same stream, so another thread writes.
        line = "stopping after this step; a second signal exits at once and saves nothing more"
        threading.Thread(target=_logger.info, args=(line,), daemon=True).start()

    def raise_if_requested(self) -> None:
        """Raise Interrupted, with the signal's exit code, if a stop was requested at the start."""
        if self.reason is not None:
            message = f"the run was {self.reason} before its first step"
            raise Interrupted(message, EXIT_CODES[self.reason])
