"""The exact sum: a fixed binary tree keyed by microbatch index.

Floating-point addition is not associative, so the order of additions has to be fixed. Leaf i of
the tree is microbatch i; node (level, index) is the sum of its two children, left first; a node
without a right sibling is its parent. Any part of the tree can be summed anywhere: a worker merges
what it can, and hands over what is left as nodes that no longer have their sibling at hand. Arrival
order is never visible.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from sumgrad.cluster.compute.chunks import ChunkedVector
from sumgrad.cluster.errors import CountMismatch
from sumgrad.model.validation import Array


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

    @property
    def leaves(self) -> range:
        """The microbatches that it covers; at the right edge fewer of them may exist."""
        return range(self.index << self.level, (self.index + 1) << self.level)


#: Adds the gradients of two siblings and gives the vector that holds their sum.
AddVectors = Callable[[Array, Array], Array]


def add_in_place(left: Array, right: Array) -> Array:
    """``left + right``, in left's memory."""
    return np.add(left, right, out=left)


class TreeReduction:
    """Adds up nodes of one step's tree as they come, in any order.

    Args:
        leaves: Microbatches of the step.
        add: Adds two gradients, the left sibling's first.
    """

    def __init__(self, leaves: int, add: AddVectors = add_in_place) -> None:
        self.leaves = leaves
        self._add_vectors = add
        #: Sums by (level, index), none of which has its sibling here too. Only `add` changes it.
        self._waiting: dict[tuple[int, int], PartialSum] = {}

    def _width(self, level: int) -> int:
        """How many nodes a level has."""
        return -(-self.leaves >> level)

    def _merge(self, left: PartialSum, right: PartialSum) -> PartialSum:
        """The parent of two siblings, neither of which must be used again."""
        gradient = None
        if left.gradient is not None and right.gradient is not None:
            gradient = self._add_vectors(left.gradient, right.gradient)
        return PartialSum(
            gradient=gradient,
            divergence=left.divergence + right.divergence,
            correct=left.correct + right.correct,
            count=left.count + right.count,
        )

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
                total = self._merge(total, other) if index < sibling else self._merge(other, total)
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
            raise CountMismatch(f"the sum of {self.leaves} microbatches is incomplete")
        total = nodes[0].sum
        if total.count != count:
            raise CountMismatch(f"{total.count} instances were summed, the step has {count}")
        return total


def largest(nodes: Iterable[Node]) -> list[Node]:
    """Of nodes some of which lie within others, those that lie within none.

    Two nodes of a tree are apart or one lies within the other, so that every leaf that any of
    them covers is covered exactly once by the result.
    """
    kept: dict[tuple[int, int], Node] = {}
    from_the_top = sorted(nodes, key=lambda node: -node.level)
    for node in from_the_top:
        ups = range(from_the_top[0].level - node.level + 1)
        if not any((node.level + up, node.index >> up) in kept for up in ups):
            kept[node.level, node.index] = node
    return list(kept.values())


def reduce_nodes(nodes: Iterable[Node], leaves: int, blocks: ChunkedVector) -> TreeReduction:
    """The tree over nodes that are all at hand, their long vectors added block by block.

    Args:
        nodes: Apart from each other; their vectors are written to.
        leaves: Microbatches of the step.
        blocks: How a vector is cut; it does not change a bit.
    """
    additions: list[tuple[Array, Array]] = []

    def note(left: Array, right: Array) -> Array:
        additions.append((left, right))
        return left

    tree = TreeReduction(leaves, add=note)
    for node in nodes:
        tree.add(node)

    def add(block: slice) -> None:
        for left, right in additions:
            np.add(left[block], right[block], out=left[block])

    if additions:
        blocks.map(add)
    return tree
