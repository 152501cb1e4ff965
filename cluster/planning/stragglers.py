"""Straggler detection: when a worker's microbatches are given to others, and when it is replaced.

Both limits follow from the usual time of microbatches of the same kind.
"""

import math
from collections import Counter
from collections.abc import Hashable

#: A worker without progress for this multiple of the usual time, plus a margin in seconds for
#: scheduling delays of the operating system, is late: idle workers compute its microbatches too.
_LATE_FACTOR = 3.0
_LATE_MARGIN_S = 0.02
_HANG_FACTOR = 30.0  #: A worker without progress for this multiple of the usual time has hung.
_MIN_HANG_S = 5.0  #: The smallest such time, in seconds.
#: Seconds until a hang is assumed while nothing of its kind has been measured. They double after
#: each hang, because some microbatches are slow without being stuck.
_UNMEASURED_HANG_S = 60.0
_NEWEST_WEIGHT = 0.1  #: Weight of a new measurement in the moving average.


class StragglerDetector:
    """The usual time of microbatches by kind, and the limits that follow from it."""

    def __init__(self) -> None:
        self._usual_s: dict[Hashable, float] = {}
        self._hangs: Counter[Hashable] = Counter()

    def record(self, kind: Hashable, seconds: float, microbatches: int) -> None:
        """Record the time that a number of microbatches took."""
        each = seconds / microbatches
        usual = self._usual_s.get(kind, each)
        self._usual_s[kind] = usual + _NEWEST_WEIGHT * (each - usual)

    def record_hang(self, kind: Hashable) -> None:
        """Record that a worker exceeded `hang_timeout`."""
        self._hangs[kind] += 1

    def speculate_after(self, kind: Hashable, microbatches: int) -> float:
        """Return the seconds after which a worker with these microbatches is late."""
        usual = self._usual_s.get(kind, math.inf)
        return _LATE_FACTOR * usual * microbatches + _LATE_MARGIN_S

    def hang_timeout(self, kind: Hashable, microbatches: int) -> float:
        """Return the seconds after which a worker with these microbatches has hung."""
        usual = self._usual_s.get(kind)
        if usual is None:
            return _UNMEASURED_HANG_S * 2.0 ** self._hangs[kind]
        return max(_MIN_HANG_S, _HANG_FACTOR * usual * microbatches)
