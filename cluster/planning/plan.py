"""The plan: which instances a step sums, and how they are cut into micro-shards.

A pure function of the rows, the seed, the epoch and the step. The number of workers is not an
input, so that it cannot change the weights.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

#: Row numbers of a source: a slice of consecutive rows, or the rows themselves.
Rows = slice | NDArray[np.intp]

#: Sets the stream of row orders apart from the other uses of a job's seed.
_ORDER_STREAM = 1


@lru_cache(maxsize=2)
def row_order(rows: int, seed: int, epoch: int) -> NDArray[np.intp]:
    """The permutation of an epoch's rows, (rows,): it depends on these numbers only."""
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(_ORDER_STREAM, epoch))
    order = np.random.Generator(np.random.Philox(sequence)).permutation(rows)
    order.flags.writeable = False
    return order


@dataclass(frozen=True)
class StepPlan:
    """The instances of one step and their micro-shards.

    Args:
        first: Position of the step's first instance in the epoch's order.
        rows: Instances of the step: T.
        shard_rows: Instances of a micro-shard; the last one may have fewer.
        order: The epoch's permutation, or None for the rows in their own order.
    """

    first: int
    rows: int
    shard_rows: int
    order: NDArray[np.intp] | None

    @property
    def shards(self) -> int:
        """The number of micro-shards."""
        return -(-self.rows // self.shard_rows)

    def shard(self, index: int) -> Rows:
        """The rows of a micro-shard."""
        start = self.first + index * self.shard_rows
        stop = min(start + self.shard_rows, self.first + self.rows)
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
        batch_rows: Instances of a step; None for all of them, in their own order.
        shard_rows: Instances of a micro-shard.
        seed: Of the row orders.
    """

    rows: int
    batch_rows: int | None
    shard_rows: int
    seed: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a pass over the rows; the last one takes what is left."""
        return 1 if self.batch_rows is None else -(-self.rows // self.batch_rows)

    def step(self, epoch: int, step: int) -> StepPlan:
        """The plan of a step.

        >>> plan = Plan(rows=10, batch_rows=4, shard_rows=3)
        >>> [plan.step(1, step).rows for step in range(plan.steps_per_epoch)]
        [4, 4, 2]

        Args:
            epoch: From 1.
            step: Within the epoch, from 0.
        """
        if self.batch_rows is None:
            return StepPlan(0, self.rows, self.shard_rows, None)
        first = step * self.batch_rows
        rows = min(self.batch_rows, self.rows - first)
        return StepPlan(first, rows, self.shard_rows, row_order(self.rows, self.seed, epoch))


def default_shard_rows(step_rows: int) -> int:
    """Rows of a micro-shard where nobody says otherwise.

    At most 256, whose activations fit into a core's cache; for smaller steps a half of them, so
    that two workers share the smallest ones too, but at least 32: below, a product's overhead and
    the addition of its gradients cost more than the help is worth.

    >>> [default_shard_rows(rows) for rows in (10, 64, 100, 512, 60_000)]
    [32, 32, 50, 256, 256]

    Args:
        step_rows: Instances of a whole step.
    """
    return min(256, max(32, -(-step_rows // 2)))
