"""How long a worker may take before others help it out, and before it is given up.

Both follow from what microbatches of its kind usually take.
"""

from collections import Counter
from collections.abc import Hashable

#: A worker without a sign of progress for so many times the usual time is late, in which case
#: those who have nothing else to do compute what it has.
_LATE_TIMES = 3.0
#: And so many seconds, so that no hiccup of the operating system counts as that.
_LATE_S = 0.02
#: After so many times the usual time it is taken for frozen; but never before so many seconds.
_LOST_TIMES = 30.0
_LOST_S = 5.0
#: As long as nothing of its kind has been measured; twice as long after each that was given up, as
#: some microbatches honestly take their time.
_LOST_UNMEASURED_S = 60.0
#: Weight of a new measurement.
_NEWEST = 0.1


class StragglerDetector:
    """What microbatches take, by their kind, and what that allows for.

    >>> patience = StragglerDetector()
    >>> patience.speculate_after("training", 1), patience.hang_timeout("training", 1)
    (inf, 60.0)
    >>> patience.record_hang("training")
    >>> patience.hang_timeout("training", 1)
    120.0
    >>> patience.record("training", 8.0, shards=4)
    >>> patience.speculate_after("training", 1)
    6.02
    >>> patience.hang_timeout("training", 1), patience.hang_timeout("training", 3)
    (60.0, 180.0)
    """

    def __init__(self) -> None:
        self._usual: dict[Hashable, float] = {}
        #: By kind, how many were given up.
        self._given_up: Counter[Hashable] = Counter()

    def record(self, kind: Hashable, seconds: float, shards: int) -> None:
        """So long did these microbatches take, in seconds."""
        each = seconds / shards
        usual = self._usual.get(kind, each)
        self._usual[kind] = usual + _NEWEST * (each - usual)

    def record_hang(self, kind: Hashable) -> None:
        """A worker took longer than it may."""
        self._given_up[kind] += 1

    def speculate_after(self, kind: Hashable, shards: int) -> float:
        """Seconds after which a worker with so many microbatches is late."""
        usual = self._usual.get(kind)
        return float("inf") if usual is None else _LATE_TIMES * usual * shards + _LATE_S

    def hang_timeout(self, kind: Hashable, shards: int) -> float:
        """Seconds after which a worker with so many microbatches is given up."""
        usual = self._usual.get(kind)
        if usual is None:
            return _LOST_UNMEASURED_S * 2.0 ** self._given_up[kind]
        return max(_LOST_S, _LOST_TIMES * usual * shards)
