"""Work stealing: which worker computes which microbatches of a step.

Each worker starts with a share of neighbouring microbatches, so that it can reduce most of its
subtree itself. An idle worker steals from the end of another worker's share. None of this is
visible in the sum.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from sumgrad.cluster.planning.reduction import Node, maximal_nodes

_EVENNESS = 16  #: Bounds of shares are rounded by at most a thread's share divided by this number.


def split_evenly(num_microbatches: int, threads: Sequence[int]) -> list[range]:
    """Return neighbouring microbatches for each worker, nearly in proportion to its threads.

    Bounds are multiples of a power of two where that costs little, because such shares reduce to
    few and large nodes of the tree.

    >>> split_evenly(5, [1, 1])
    [range(0, 3), range(3, 5)]
    >>> split_evenly(100, [1, 2])
    [range(0, 34), range(34, 100)]
    """
    unit = 1 << max(0, (num_microbatches // (sum(threads) * _EVENNESS)).bit_length() - 1)
    units = -(-num_microbatches // unit)
    ends = [0, *accumulate(threads)]
    bounds = [min(num_microbatches, unit * -(-units * end // ends[-1])) for end in ends]
    return [range(low, high) for low, high in pairwise(bounds)]


class ClaimTable:
    """The limit and the current microbatch of each worker, in memory that all of them share.

    A worker writes its current microbatch and then reads its limit. The driver lowers the limit of
    one worker and assigns the rest to another. If both happen at once, a microbatch is computed
    twice with the same bits and counted once, so no locks are needed.
    """

    def __init__(self, table: NDArray[np.int64]) -> None:
        # Only the driver writes column 0.
        self._limit = table[:, 0]
        self._current = table[:, 1]

    @classmethod
    def local(cls, num_workers: int) -> "ClaimTable":
        """Return a table for threads of this process."""
        return cls(np.zeros((num_workers, 2), dtype=np.int64))

    def assign(self, worker: int, microbatches: range) -> None:
        """Assign microbatches to an idle worker; the first one counts as started."""
        self._current[worker] = microbatches.start
        self._limit[worker] = microbatches.stop

    def forbid_stealing(self, worker: int) -> None:
        """Mark the whole share of a worker as started, because it cannot see its limit."""
        self._current[worker] = self._limit[worker] - 1

    def iter_claimed(self, worker: int, microbatches: range) -> Iterator[int]:
        """Yield a worker's microbatches while they are below its limit."""
        for microbatch in microbatches:
            self._current[worker] = microbatch
            if microbatch >= self._limit[worker]:
                return
            yield microbatch

    def limit(self, worker: int) -> int:
        """Return the end of what a worker may compute."""
        return int(self._limit[worker])

    def current(self, worker: int) -> int:
        """Return the microbatch that a worker started last."""
        return int(self._current[worker])

    def remaining(self, worker: int) -> int:
        """Return the number of microbatches that a worker has not started."""
        return max(0, self.limit(worker) - self.current(worker) - 1)

    def steal(self, worker: int) -> range:
        """Remove and return the later half of what a worker has not started."""
        stop = self.limit(worker)
        start = stop - (self.remaining(worker) + 1) // 2
        self._limit[worker] = start
        return range(start, stop)

    def cancel_all(self) -> None:
        """Let no worker start another microbatch."""
        self._limit[:] = 0


class StepSchedule:
    """The state of a step's microbatches: queued, assigned or delivered.

    A late worker's microbatches may be assigned to a second worker as well. The first delivery of a
    microbatch counts.
    """

    def __init__(self, microbatches: range, claims: ClaimTable) -> None:
        self._microbatches = microbatches
        self._claims = claims
        self._delivered = bytearray(len(microbatches))  #: 1 for each whose sum was delivered.
        #: The last assignment of each busy worker; its limit in `claims` may be lower by now.
        self._assigned: dict[int, range] = {}
        self._queue: list[range] = []  #: Microbatches of lost workers, which no other has.
        #: Workers whose microbatches a second worker has as well, which requeues them if lost.
        self._speculated: set[int] = set()
        self._nodes: list[Node] = []

    def start(self, threads: Mapping[int, int]) -> dict[int, range]:
        """Return the first assignments, given the number of threads of each worker.

        A worker without a share is not in the result. Without workers, everything is queued.
        """
        if not threads:
            self._queue.append(self._microbatches)
            return {}
        first = self._microbatches.start
        shares = split_evenly(len(self._microbatches), list(threads.values()))
        for worker, share in zip(threads, shares, strict=True):
            if share:
                self._assign(worker, range(first + share.start, first + share.stop))
        return dict(self._assigned)

    def _assign(self, worker: int, microbatches: range) -> range:
        self._claims.assign(worker, microbatches)
        self._assigned[worker] = microbatches
        return microbatches

    @property
    def busy(self) -> set[int]:
        """The workers that have an assignment."""
        return set(self._assigned)

    @property
    def complete(self) -> bool:
        """Whether every microbatch has been delivered."""
        return 0 not in self._delivered

    def deliver(self, worker: int, nodes: Sequence[Node]) -> int:
        """Record the sums of a worker, which is idle afterwards; return how many it has summed."""
        summed = 0
        for node in nodes:
            leaves = range(node.leaves.start, min(node.leaves.stop, self._microbatches.stop))
            for microbatch in leaves:
                self._delivered[microbatch - self._microbatches.start] = 1
            summed += len(leaves)
        self._nodes.extend(nodes)
        self.requeue(worker)
        return summed

    def requeue(self, worker: int) -> None:
        """Queue what a worker has not delivered; the worker is idle or lost afterwards."""
        missing = self._missing(worker)
        if missing and worker not in self._speculated:
            self._queue.append(missing)
        self._assigned.pop(worker, None)
        self._speculated.discard(worker)

    def _missing(self, worker: int) -> range:
        """Return what a worker has to deliver and no worker has delivered."""
        assigned = self._assigned.get(worker, range(0))
        own = range(assigned.start, min(assigned.stop, self._claims.limit(worker)))
        missing = [m for m in own if not self._delivered[m - self._microbatches.start]]
        return range(missing[0], missing[-1] + 1) if missing else range(0)

    def next_assignment(self, worker: int) -> range | None:
        """Return work for an idle worker: queued, or stolen from the worker with the most left."""
        if self._queue:
            return self._assign(worker, self._queue.pop())
        most_loaded = max(self._assigned, key=self._claims.remaining, default=None)
        if most_loaded is None or not self._claims.remaining(most_loaded):
            return None
        return self._assign(worker, self._claims.steal(most_loaded))

    def speculate(self, worker: int, late: int) -> range | None:
        """Return a copy of a late worker's microbatches, unless another worker has one already."""
        missing = self._missing(late)
        if late in self._speculated or not missing:
            return None
        self._speculated.add(late)
        return self._assign(worker, missing)

    def nodes(self) -> list[Node]:
        """Return the delivered nodes with every microbatch once."""
        return maximal_nodes(self._nodes)
