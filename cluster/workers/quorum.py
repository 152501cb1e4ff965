"""Whether a job has as many workers as it needs at least, and how long it waits for them."""

import time
from collections.abc import Iterable

from sumgrad.cluster.errors import ClusterUnreachable
from sumgrad.cluster.workers.scaling_policy import LOOK_S, ScalingPolicy

#: So long lost workers' places may be empty before there are too few, in seconds.
_REPLACEMENT_S = 10.0


class Quorum:
    """The least number of workers.

    Args:
        rules: How many that is, how long to wait, and whom to tell.
    """

    def __init__(self, rules: ScalingPolicy) -> None:
        self._rules = rules
        #: Since when there are fewer than the least.
        self._few_since: float | None = None
        #: Whether that has been said.
        self._told = False

    def must_wait(self, present: int, doing: str, reasons: Iterable[str | None]) -> bool:
        """Whether there are fewer workers than the least, and it is to be waited for more.

        Those who were lost a moment ago are being replaced meanwhile, which is not waited for as
        long as there is anybody.

        Args:
            present: How many workers there are.
            doing: What waits, as a phrase.
            reasons: Why there are no others, as far as that is known; asked only at the end.

        Raises:
            ClusterUnreachable: More did not come in time, or it is time to stop.
        """
        if self.reached(present):
            return False
        now = time.monotonic()
        if self._few_since is None:
            self._few_since = now
        waited = now - self._few_since
        if present and waited < _REPLACEMENT_S:
            return False
        self._wait_on(present, doing, waited, reasons)
        return True

    def reached(self, present: int) -> bool:
        """Whether there are enough workers; how long there were too few is of the past then."""
        if present < self._rules.least:
            return False
        if self._told:
            self._rules.note(f"{present} workers again: going on")
        self._few_since, self._told = None, False
        return True

    def _wait_on(
        self, present: int, doing: str, waited: float, reasons: Iterable[str | None]
    ) -> None:
        """Say that it waits, and what for; and end it when it is time to."""
        rules = self._rules
        have = f"{present} of the {rules.least} workers that the job needs at least"
        if rules.is_stopping():
            raise ClusterUnreachable(f"stopped while waiting for workers: there are {have}")
        if waited > rules.wait_s:
            raise ClusterUnreachable(
                f"there are {have}, and no more came within {rules.wait_s:.0f} s",
                hint=next(filter(None, reasons), "")
                or "'sumgrad resume' goes on from here once there is room for them",
            )
        if waited > LOOK_S and not self._told:
            rules.note(f"waiting, {doing}: there are {have}; for {rules.wait_s:.0f} s at most")
            self._told = True
