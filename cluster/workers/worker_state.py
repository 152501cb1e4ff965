"""What the driver knows of a worker whose process is starting or connected."""

import time
from dataclasses import dataclass

#: Seconds that a replacement's process may take to connect before it is killed and started again.
#: Each attempt has twice as long as the one before, up to the job's resource timeout.
START_TIMEOUT_S = 60.0
#: Pauses between failed attempts double from the first to the last of these, in seconds.
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.5, 30.0
_MAX_DOUBLINGS = 10  #: The largest exponent of these powers of two; attempts are not limited.


@dataclass
class WorkerState:
    """A worker of the group: its attempts to start, and its threads."""

    is_joining: bool = False  #: Whether it was added after the start and has not connected yet.
    attempts: int = 0  #: How often its process was started since it delivered a sum.
    threads: int = 1  #: Threads that it had when it was connected last.
    started: float = 0.0  #: When its process was started.
    retry_at: float | None = None  #: When to start it again; None while starting or connected.
    reason: str = ""  #: Why the last attempt failed.

    def begin_attempt(self) -> None:
        """Record that its process is started."""
        self.attempts += 1
        self.started, self.retry_at = time.monotonic(), None

    def fail(self, reason: str) -> None:
        """Schedule another attempt."""
        self.retry_at = time.monotonic() + min(self._doubled(_FIRST_PAUSE_S), _MAX_PAUSE_S)
        self.reason = reason

    def connect(self, threads: int) -> None:
        """Record that its process has connected, with this number of threads."""
        self.threads, self.is_joining, self.retry_at, self.reason = threads, False, None, ""

    def timeout(self, resource_timeout: float) -> float:
        """Return how many seconds this attempt may take."""
        return min(self._doubled(START_TIMEOUT_S), start_timeout(resource_timeout))

    def _doubled(self, seconds: float) -> float:
        return seconds * 2.0 ** min(self.attempts - 1, _MAX_DOUBLINGS)


def start_timeout(resource_timeout: float) -> float:
    """Return how many seconds a process may take to start on a busy node."""
    return max(START_TIMEOUT_S, resource_timeout)
