"""The plan: which instances a step sums, and how they are cut into microbatches.

A pure function of the rows, the seed, the epoch and the step. The number of workers is not an
input, so that it cannot change the weights.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sumgrad.model.random_streams import RandomStream, Stream

#: Row numbers of a source: a slice of consecutive rows, or the rows themselves.
RowIndices = slice | NDArray[np.intp]


@lru_cache(maxsize=2)
def permutation(rows: int, seed: int, epoch: int) -> NDArray[np.intp]:
    """The permutation of an epoch's rows, (rows,): it depends on these numbers only."""
    order = RandomStream(seed, Stream.ROW_ORDER, index=epoch).permutation(rows)
    order.flags.writeable = False
    return order


@dataclass(frozen=True)
class StepPlan:
    """The instances of one step and their microbatches.

    Args:
        first: Position of the step's first instance in the epoch's order.
        num_rows: Instances of the step: T.
        microbatch_size: Instances of a microbatch; the last one may have fewer.
        order: The epoch's permutation, or None for the rows in their own order.
    """

    first: int
    num_rows: int
    microbatch_size: int
    order: NDArray[np.intp] | None

    @property
    def num_microbatches(self) -> int:
        """The number of microbatches."""
        return -(-self.num_rows // self.microbatch_size)

    def shard(self, index: int) -> RowIndices:
        """The rows of a microbatch."""
        start = self.first + index * self.microbatch_size
        stop = min(start + self.microbatch_size, self.first + self.num_rows)
        return slice(start, stop) if self.order is None else self.order[start:stop]

    def row_numbers(self, index: int) -> list[int]:
        """The same, as a list of numbers."""
        rows = self.shard(index)
        return list(range(rows.start, rows.stop)) if isinstance(rows, slice) else rows.tolist()


@dataclass(frozen=True)
class Plan:
    """A whole run's plan over one source of rows.

    Args:
        rows: Instances in the source.
        batch_size: Instances of a step; None for all of them, in their own order.
        microbatch_size: Instances of a microbatch.
        seed: Of the row orders.
    """

    rows: int
    batch_size: int | None
    microbatch_size: int
    seed: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a pass over the rows; the last one takes what is left."""
        return 1 if self.batch_size is None else -(-self.rows // self.batch_size)

    def step(self, epoch: int, step: int) -> StepPlan:
        """The plan of a step.

        >>> plan = Plan(rows=10, batch_size=4, microbatch_size=3)
        >>> [plan.step(1, step).num_rows for step in range(plan.steps_per_epoch)]
        [4, 4, 2]

        Args:
            epoch: From 1.
            step: Within the epoch, from 0.
        """
        if self.batch_size is None:
            return StepPlan(0, self.rows, self.microbatch_size, None)
        first = step * self.batch_size
        rows = min(self.batch_size, self.rows - first)
        return StepPlan(first, rows, self.microbatch_size, permutation(self.rows, self.seed, epoch))


def default_microbatch_size(step_rows: int) -> int:
    """Rows of a microbatch where nobody says otherwise.

    At most 256, whose activations fit into a core's cache; for smaller steps a half of them, so
    that two workers share the smallest ones too, but at least 32: below, a product's overhead and
    the addition of its gradients cost more than the help is worth.

    >>> [default_microbatch_size(rows) for rows in (10, 64, 100, 512, 60_000)]
    [32, 32, 50, 256, 256]

    Args:
        step_rows: Instances of a whole step.
    """
    return min(256, max(32, -(-step_rows // 2)))
