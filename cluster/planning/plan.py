"""The plan: which instances a step sums and how they are cut into microbatches.

A plan is a pure function of the rows, the seed, the epoch and the step. The number of workers is
not an input, so it cannot change the weights.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sumgrad.model.random_streams import RandomStream, Stream

RowIndices = slice | NDArray[np.intp]  #: Rows of a data source: consecutive, or an index array.


@lru_cache(maxsize=2)
def permutation(num_rows: int, seed: int, epoch: int) -> NDArray[np.intp]:
    """Return the order in which an epoch visits the rows, (num_rows,), read-only."""
    order = RandomStream(seed, Stream.ROW_ORDER, index=epoch).permutation(num_rows)
    order.flags.writeable = False
    return order


@dataclass(frozen=True)
class StepPlan:
    """The instances of one step and their microbatches."""

    start: int  #: Position of the step's first instance in the epoch's order.
    num_rows: int  #: Instances of the step: T.
    microbatch_size: int  #: Instances of a microbatch; the last one may have fewer.
    order: NDArray[np.intp] | None  #: The epoch's permutation, or None for the source's own order.

    @property
    def num_microbatches(self) -> int:
        """The number of microbatches."""
        return -(-self.num_rows // self.microbatch_size)

    def microbatch(self, index: int) -> RowIndices:
        """Return the rows of a microbatch."""
        start = self.start + index * self.microbatch_size
        stop = min(start + self.microbatch_size, self.start + self.num_rows)
        return slice(start, stop) if self.order is None else self.order[start:stop]

    def row_indices(self, index: int) -> list[int]:
        """Return the rows of a microbatch as a list."""
        rows = self.microbatch(index)
        return list(range(rows.start, rows.stop)) if isinstance(rows, slice) else rows.tolist()


@dataclass(frozen=True)
class Plan:
    """The plan of a whole run over the rows of one data source."""

    num_rows: int
    batch_size: int | None  #: Instances of a step; None for all of them, in their own order.
    microbatch_size: int
    seed: int = 0  #: Seed of the permutations.

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps of an epoch; the last one takes the remaining rows."""
        return 1 if self.batch_size is None else -(-self.num_rows // self.batch_size)

    def step(self, epoch: int, step: int) -> StepPlan:
        """Return the plan of a step; epochs count from 1, steps of an epoch from 0.

        >>> plan = Plan(num_rows=10, batch_size=4, microbatch_size=3)
        >>> [plan.step(1, step).num_rows for step in range(plan.steps_per_epoch)]
        [4, 4, 2]
        """
        if self.batch_size is None:
            return StepPlan(0, self.num_rows, self.microbatch_size, None)
        start = step * self.batch_size
        num_rows = min(self.batch_size, self.num_rows - start)
        order = permutation(self.num_rows, self.seed, epoch)
        return StepPlan(start, num_rows, self.microbatch_size, order)


def default_microbatch_size(step_rows: int) -> int:
    """Return the microbatch size for steps of this many rows, where the spec gives none.

    The maximum is 256 rows, whose activations fit into a core's cache. Smaller steps are halved, so
    that two workers share them. Below the minimum of 32 rows, the overhead of a product and the
    addition of its gradients cost more than a second worker saves.

    >>> [default_microbatch_size(rows) for rows in (10, 64, 100, 512, 60_000)]
    [32, 32, 50, 256, 256]
    """
    return min(256, max(32, -(-step_rows // 2)))
