"""A worker whose process is starting."""

import time
from dataclasses import dataclass

#: Seconds that a replacement's process may take to connect before it is killed and started again.
#: Each attempt has twice as long as the one before, up to the job's resource timeout.
START_TIMEOUT_S = 60.0
#: Pauses between failed attempts double from the first to the last of these, in seconds.
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.5, 30.0
#: The largest exponent of the powers of two above; a long run can have any number of attempts.
_MAX_DOUBLINGS = 10


@dataclass
class PendingWorker:
    """A worker whose process is starting, or is to be started again."""

    attempt: int = 1  #: From 1.
    is_extra: bool = False  #: Whether it is an additional worker, and not a replacement.
    started: float = 0.0  #: When its process was started.
    #: When to start it again, or None while a process is starting.
    retry_at: float | None = None
    reason: str = ""  #: Why the last attempt failed.

    def fail(self, reason: str) -> None:
        """Schedule another attempt."""
        self.retry_at = time.monotonic() + min(self._doubled(_FIRST_PAUSE_S), _MAX_PAUSE_S)
        self.reason = reason

    def next_attempt(self) -> "PendingWorker":
        """Return the next attempt to start this worker."""
        return PendingWorker(self.attempt + 1, self.is_extra, reason=self.reason)

    def timeout(self, resource_timeout: float) -> float:
        """Return how many seconds this attempt may take."""
        return min(self._doubled(START_TIMEOUT_S), start_timeout(resource_timeout))

    def _doubled(self, seconds: float) -> float:
        return seconds * 2.0 ** min(self.attempt - 1, _MAX_DOUBLINGS)


def start_timeout(resource_timeout: float) -> float:
    """Return how many seconds a process may take to start on a busy node."""
    return max(START_TIMEOUT_S, resource_timeout)
