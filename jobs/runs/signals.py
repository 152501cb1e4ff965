"""Ctrl-C and termination: stop at a step's boundary, keep the weights, tell the truth about it."""

import signal
from types import FrameType, TracebackType
from typing import Self

from sumgrad.cluster.training.stopping import StopReason

_REASONS = {
    signal.SIGINT: StopReason.INTERRUPTED,
    signal.SIGTERM: StopReason.TERMINATED,
}

#: What a shell expects of a process that a signal ended.
EXIT_CODES = {StopReason.INTERRUPTED: 130, StopReason.TERMINATED: 143}


class StopRequest:
    """Notes the first signal; the second one stops at once. Used as a context."""

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self._before = {number: signal.getsignal(number) for number in _REASONS}

    def __enter__(self) -> Self:
        for number in _REASONS:
            signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        reason = _REASONS[signal.Signals(number)]
        if self.reason is not None:
            raise SystemExit(EXIT_CODES[reason])
        self.reason = reason

    def requested(self) -> StopReason | None:
        """The reason to stop, or None."""
        return self.reason
