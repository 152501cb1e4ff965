"""The exact sum: a fixed binary tree keyed by micro-shard index.

Floating-point addition is not associative, so the order of additions has to be fixed. Leaf i of
the tree is micro-shard i; node (level, index) is the sum of its two children, left first; a node
without a right sibling is its parent. Any part of the tree can be summed anywhere: a worker merges
what it can, and sends what is left as nodes that no longer have their sibling at hand. Arrival
order is never visible.
"""

from dataclasses import dataclass

import numpy as np

from cluster.errors import CountMismatch
from model.checks import Array


@dataclass
class PartialSum:
    """Sums over some instances.

    Attributes:
        gradient: Σ ∇Div as a flat vector, or None when only evaluating.
        divergence: Σ Div.
        correct: Instances put into the right class, when evaluating.
        count: Instances summed.
    """

    gradient: Array | None
    divergence: float
    correct: int
    count: int


@dataclass
class Node:
    """A sum and its place in the tree: it covers leaves ``index·2^level`` up to the next node's."""

    level: int
    index: int
    sum: PartialSum


def merge(left: PartialSum, right: PartialSum) -> PartialSum:
    """``left + right``; may write into either, which must not be used again."""
    return PartialSum(
        gradient=_add(left.gradient, right.gradient),
        divergence=left.divergence + right.divergence,
        correct=left.correct + right.correct,
        count=left.count + right.count,
    )


def _add(left: Array | None, right: Array | None) -> Array | None:
    if left is None or right is None:
        return None
    # What came out of Ray's object store is read-only.
    out = next((array for array in (left, right) if array.flags.writeable), None)
    return np.add(left, right, out=out)


class TreeSum:
    """Adds up nodes of one step's tree as they come, in any order.

    Args:
        leaves: Micro-shards of the step.
    """

    def __init__(self, leaves: int) -> None:
        self.leaves = leaves
        #: Sums by (level, index), none of which has its sibling here too. Only `add` changes it.
        self._waiting: dict[tuple[int, int], PartialSum] = {}

    def _width(self, level: int) -> int:
        """How many nodes a level has."""
        return -(-self.leaves >> level)

    def add(self, node: Node) -> None:
        """Take a node in and merge it upwards as far as siblings are here.

        Raises:
            CountMismatch: The node is not of this tree, or was added before.
        """
        level, index, total = node.level, node.index, node.sum
        if not 0 <= index < self._width(level):
            raise CountMismatch(f"node ({level}, {index}) is not of a tree of {self.leaves} shards")
        while self._width(level) > 1:
            if (level, index) in self._waiting:
                raise CountMismatch(f"node ({level}, {index}) of the sum came twice")
            sibling = index ^ 1
            if sibling < self._width(level):
                other = self._waiting.pop((level, sibling), None)
                if other is None:
                    break
                total = merge(total, other) if index < sibling else merge(other, total)
            level, index = level + 1, index >> 1
        if (level, index) in self._waiting:
            raise CountMismatch(f"node ({level}, {index}) of the sum came twice")
        self._waiting[level, index] = total

    def nodes(self) -> list[Node]:
        """What has been summed so far, as the largest nodes that it makes."""
        return [Node(level, index, total) for (level, index), total in self._waiting.items()]

    def root(self, count: int) -> PartialSum:
        """The whole sum.

        Args:
            count: Instances that it must cover.

        Raises:
            CountMismatch: Something is missing, or the instances are not exactly so many.
        """
        nodes = self.nodes()
        if len(nodes) != 1 or self._width(nodes[0].level) > 1:
            raise CountMismatch(f"the sum of {self.leaves} micro-shards is incomplete")
        total = nodes[0].sum
        if total.count != count:
            raise CountMismatch(f"{total.count} instances were summed, the step has {count}")
        return total
