"""Who computes which microbatches of a step: decisions without I/O.

Each worker starts with a share of neighbouring microbatches, so that it can add up most of the tree
by itself. A worker that is done takes over what another has not begun, from that one's end. None of
this is visible in the sum.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from sumgrad.cluster.planning.reduction import Node, largest

#: A share's bounds are rounded so that the shares differ by at most a part in so many.
_EVENNESS = 16


def shares(shards: int, lanes: Sequence[int]) -> list[range]:
    """Neighbouring microbatches for each worker, almost as evenly over their lanes as they divide.

    Bounds are multiples of a power of two where that costs little, for such shares make few and
    large nodes of the tree.

    >>> shares(5, [1, 1])
    [range(0, 3), range(3, 5)]
    >>> shares(100, [1, 2])
    [range(0, 34), range(34, 100)]
    """
    unit = 1 << max(0, (shards // (sum(lanes) * _EVENNESS)).bit_length() - 1)
    units = -(-shards // unit)
    ends = [0, *accumulate(lanes)]
    bounds = [min(shards, unit * -(-units * end // ends[-1])) for end in ends]
    return [range(low, high) for low, high in pairwise(bounds)]


class ClaimTable:
    """How far each worker may go and has gone: two numbers a worker, in memory that both see.

    A worker notes a microbatch as begun and then looks whether it still may; the driver lowers the
    limit of one worker and gives the rest to another. Should both come at the same moment, a
    microbatch is computed twice, with the same bits, and counted once.

    Args:
        numbers: int64, (workers, 2); only `assign` and `take_over` change column 0, the limits.
    """

    def __init__(self, numbers: NDArray[np.int64]) -> None:
        self._limit = numbers[:, 0]
        self._begun = numbers[:, 1]

    @classmethod
    def of(cls, workers: int) -> "ClaimTable":
        """For workers in this process."""
        return cls(np.zeros((workers, 2), dtype=np.int64))

    def assign(self, worker: int, shards: range) -> None:
        """Let a worker that is idle compute these; the first one counts as begun."""
        self._begun[worker] = shards.start
        self._limit[worker] = shards.stop

    def forbid_stealing(self, worker: int) -> None:
        """Let nothing be taken over from a worker that does not see the limits."""
        self._begun[worker] = self._limit[worker] - 1

    def iter_claimed(self, worker: int, shards: range) -> Iterator[int]:
        """A worker's microbatches one by one, as long as they are still its own."""
        for shard in shards:
            self._begun[worker] = shard
            if shard >= self._limit[worker]:
                return
            yield shard

    def limit(self, worker: int) -> int:
        """The end of what a worker may compute."""
        return int(self._limit[worker])

    def current(self, worker: int) -> int:
        """The microbatch that a worker noted last."""
        return int(self._begun[worker])

    def rest(self, worker: int) -> int:
        """How many microbatches of a worker's share it has not begun."""
        return max(0, self.limit(worker) - self.current(worker) - 1)

    def steal(self, worker: int) -> range:
        """Take the later half of what a worker has not begun."""
        stop = self.limit(worker)
        start = stop - (self.rest(worker) + 1) // 2
        self._limit[worker] = start
        return range(start, stop)

    def cancel_all(self) -> None:
        """Let no worker begin another microbatch."""
        self._limit[:] = 0


class StepSchedule:
    """The microbatches of one step, or of a part of it: given out, taken over, delivered.

    At any time each of them has been delivered, or is assigned to a worker, or is left over. Where
    a worker is late, another may be given a copy of what it has: whoever delivers first counts.

    Args:
        shards: What is to be computed.
        claims: Of the workers.
    """

    def __init__(self, shards: range, claims: ClaimTable) -> None:
        self._shards = shards
        self._claims = claims
        #: One byte a microbatch, 1 where its sum has been delivered.
        self._delivered = bytearray(len(shards))
        #: What each busy worker was given; its limit in `claims` may be lower by now.
        self._assigned: dict[int, range] = {}
        #: Of workers that were lost.
        self._left_over: list[range] = []
        #: Workers of whose microbatches somebody else has a copy, and answers for them.
        self._copied: set[int] = set()
        self._nodes: list[Node] = []

    def start(self, lanes: Mapping[int, int]) -> dict[int, range]:
        """The first shares; workers for whom there is nothing get none.

        Args:
            lanes: Of each worker; where there is none, all is left over for whoever comes.
        """
        if not lanes:
            self._left_over.append(self._shards)
            return {}
        first = self._shards.start
        dealt = shares(len(self._shards), list(lanes.values()))
        for worker, share in zip(lanes, dealt, strict=True):
            if share:
                self._assign(worker, range(first + share.start, first + share.stop))
        return dict(self._assigned)

    def _assign(self, worker: int, shards: range) -> range:
        self._claims.assign(worker, shards)
        self._assigned[worker] = shards
        return shards

    @property
    def busy(self) -> set[int]:
        """Workers that have something to compute."""
        return set(self._assigned)

    @property
    def complete(self) -> bool:
        """Whether every microbatch has been delivered."""
        return 0 not in self._delivered

    def deliver(self, worker: int, nodes: Sequence[Node]) -> int:
        """A worker is done with what it was given.

        Returns:
            How many microbatches it has summed.
        """
        summed = 0
        for node in nodes:
            leaves = range(node.leaves.start, min(node.leaves.stop, self._shards.stop))
            for shard in leaves:
                self._delivered[shard - self._shards.start] = 1
            summed += len(leaves)
        self._nodes.extend(nodes)
        self._release(worker)
        return summed

    def requeue(self, worker: int) -> None:
        """A worker is gone with all that it has not delivered."""
        self._release(worker)

    def _release(self, worker: int) -> None:
        missing = self._missing(worker)
        if missing and worker not in self._copied:
            self._left_over.append(missing)
        self._assigned.pop(worker, None)
        self._copied.discard(worker)

    def _missing(self, worker: int) -> range:
        """What a worker has of microbatches that have not been delivered."""
        given = self._assigned.get(worker, range(0))
        own = range(given.start, min(given.stop, self._claims.limit(worker)))
        missing = [s for s in own if not self._delivered[s - self._shards.start]]
        return range(missing[0], missing[-1] + 1) if missing else range(0)

    def next_assignment(self, worker: int) -> range | None:
        """Something for an idle worker: what a lost one left, or a part of another's share."""
        if self._left_over:
            return self._assign(worker, self._left_over.pop())
        slowest = max(self._assigned, key=self._claims.rest, default=None)
        if slowest is None or not self._claims.rest(slowest):
            return None
        return self._assign(worker, self._claims.steal(slowest))

    def speculate(self, worker: int, late: int) -> range | None:
        """For an idle worker a copy of what a late one has, unless somebody has one already."""
        missing = self._missing(late)
        if late in self._copied or not missing:
            return None
        self._copied.add(late)
        return self._assign(worker, missing)

    def nodes(self) -> list[Node]:
        """The delivered nodes, every microbatch once."""
        return largest(self._nodes)
