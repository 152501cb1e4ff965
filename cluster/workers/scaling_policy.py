"""How many workers a job needs, how long it waits for them, and which of them it releases."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from sumgrad.cluster.errors import ClusterUnreachable

_logger = logging.getLogger(__name__)

SUPERVISION_INTERVAL_S = 1.0  #: Polling interval of the workers in seconds.
#: Seconds for which a job continues below its minimum, because lost workers are being replaced.
_REPLACEMENT_S = 10.0
_DAY_S = 86_400


@dataclass(frozen=True)
class ScalingPolicy:
    """The limits of a job's number of workers."""

    min_cpus: int = 1  #: With fewer for `_REPLACEMENT_S` seconds, the job waits.
    extra_cpus: int = 0  #: How many more may join when CPUs become free.
    resource_timeout: float = 300.0  #: Seconds to wait for the minimum.
    should_stop: Callable[[], bool] = lambda: False  #: Polled while waiting; True makes it raise.


def format_limit(seconds: float) -> str:
    """Return a timeout as text.

    >>> format_limit(300), format_limit(30 * 86_400)
    ('up to 300 s', 'up to 30 days')
    """
    is_short = seconds < 2 * _DAY_S
    return f"up to {seconds:.0f} s" if is_short else f"up to {seconds / _DAY_S:.0f} days"


class WorkerMinimum:
    """A job's minimum of workers, and the time for which it has had fewer."""

    def __init__(self, policy: ScalingPolicy) -> None:
        self._policy = policy
        self._short_since: float | None = None  #: Since when there are too few.
        self._is_logged = False  #: Whether that has been logged.

    def must_wait(self, running: int, activity: str, reasons: Iterable[str | None]) -> bool:
        """Return whether to wait for more workers than are running.

        While any workers are running, the job does not wait for replacements of workers that were
        lost moments ago. `activity` is what waits, for the log; `reasons` are why the others have
        not started, read only on time-out. Raises `ClusterUnreachable` then, or before a stop.
        """
        if self.update(running):
            return False
        now = time.monotonic()
        if self._short_since is None:
            self._short_since = now
        waited = now - self._short_since
        if running and waited < _REPLACEMENT_S:
            return False
        timeout = self._policy.resource_timeout
        have = f"{running} of at least {self._policy.min_cpus} required workers are running"
        if self._policy.should_stop():
            raise ClusterUnreachable(f"stopped while waiting for workers: {have}")
        if waited > timeout:
            reason = next(filter(None, reasons), None)
            cause = f": {reason}" if reason else ""
            raise ClusterUnreachable(
                f"{have}, and no other started within {timeout:.0f} s{cause}",
                hint="'sumgrad resume' continues the run once there are free CPUs",
            )
        if waited > SUPERVISION_INTERVAL_S and not self._is_logged:
            _logger.info("waiting while %s: %s; %s", activity, have, format_limit(timeout))
            self._is_logged = True
        return True

    def update(self, running: int) -> bool:
        """Record the number of running workers; return whether there are enough."""
        if running < self._policy.min_cpus:
            return False
        if self._is_logged:
            _logger.info("%d workers are running: resuming", running)
        self._short_since, self._is_logged = None, False
        return True


def choose_workers_to_release(threads: Mapping[int, int], excess: int) -> list[int]:
    """Return workers that together have at least `excess` CPUs, and as few more as possible.

    The keys of `threads` are the workers that may be released, its values their CPUs.

    >>> choose_workers_to_release({2: 1, 3: 1, 4: 4}, excess=1)
    [3]
    >>> choose_workers_to_release({2: 1, 3: 1, 4: 4}, excess=5)
    [4, 3]
    >>> choose_workers_to_release({1: 1, 2: 1, 3: 4}, excess=3)
    [3]
    """
    remaining, chosen = dict(threads), []
    while excess > 0 and remaining:
        fitting = [worker for worker in remaining if remaining[worker] <= excess]
        worker = (
            max(fitting, key=lambda worker: (remaining[worker], worker))
            if fitting
            else min(remaining, key=lambda worker: (remaining[worker], -worker))
        )
        excess -= remaining.pop(worker)
        chosen.append(worker)
    for worker in list(chosen):
        # A large worker chosen last can make smaller ones unnecessary.
        if excess + threads[worker] <= 0:
            excess += threads[worker]
            chosen.remove(worker)
    return chosen
