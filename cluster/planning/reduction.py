"""The deterministic reduction: a fixed binary tree keyed by microbatch index.

Floating-point addition is not associative, so the order of additions has to be fixed. Leaf i of the
tree is microbatch i. Node (level, index) is the sum of its two children, left first; a node without
a right sibling equals its parent. Any part of the tree can be reduced anywhere: a worker reduces
the subtrees that it has completely and sends their roots. Arrival order is never visible.
"""

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sumgrad.cluster.errors import CountMismatch
from sumgrad.model.validation import Array


@dataclass
class PartialSum:
    """Sums over some instances."""

    gradient: Array | None  #: Σ ∇Div as a flat vector, or None in an evaluation.
    divergence: float  #: Σ Div.
    correct: int  #: Correctly classified instances, in an evaluation.
    count: int  #: Instances summed.


@dataclass
class Node:
    """A sum and its position in the tree."""

    level: int
    index: int
    sum: PartialSum

    @property
    def leaves(self) -> range:
        """The microbatches below the node; at the right edge some may not exist."""
        return range(self.index << self.level, (self.index + 1) << self.level)


#: Adds the gradients of two siblings, left first, and returns the vector that holds their sum.
AddVectors = Callable[[Array, Array], Array]


class TreeReduction:
    """A reduction of the nodes of one step's tree, whose leaves are the microbatches."""

    def __init__(self, num_leaves: int, add: AddVectors = operator.iadd) -> None:
        self.num_leaves = num_leaves
        self._add_vectors = add
        #: Sums by (level, index), none of whose siblings are present. Only `add` changes it.
        self._pending: dict[tuple[int, int], PartialSum] = {}

    def _width(self, level: int) -> int:
        """Return the number of nodes of a level."""
        return -(-self.num_leaves >> level)

    def _merge(self, left: PartialSum, right: PartialSum) -> PartialSum:
        """Return the parent of two siblings, which must not be used afterwards."""
        gradient = None
        if left.gradient is not None and right.gradient is not None:
            gradient = self._add_vectors(left.gradient, right.gradient)
        return PartialSum(
            gradient,
            left.divergence + right.divergence,
            left.correct + right.correct,
            left.count + right.count,
        )

    def add(self, node: Node) -> None:
        """Add a node of this tree, once, and merge it upwards while its sibling is present."""
        level, index, total = node.level, node.index, node.sum
        if not 0 <= index < self._width(level):
            raise CountMismatch(
                f"node ({level}, {index}) is not part of a tree of {self.num_leaves} microbatches"
            )
        while True:
            if (level, index) in self._pending:
                raise CountMismatch(f"node ({level}, {index}) was added twice")
            if self._width(level) == 1:
                break
            sibling = index ^ 1
            if sibling < self._width(level):
                other = self._pending.pop((level, sibling), None)
                if other is None:
                    break
                total = self._merge(total, other) if index < sibling else self._merge(other, total)
            level, index = level + 1, index >> 1
        self._pending[level, index] = total

    def nodes(self) -> list[Node]:
        """Return what has been reduced so far, as the maximal nodes of the tree."""
        return [Node(level, index, total) for (level, index), total in self._pending.items()]

    def root(self, count: int) -> PartialSum:
        """Return the whole sum; raise `CountMismatch` unless it covers `count` instances."""
        nodes = self.nodes()
        if len(nodes) != 1 or self._width(nodes[0].level) > 1:
            raise CountMismatch(f"the sum of {self.num_leaves} microbatches is incomplete")
        total = nodes[0].sum
        if total.count != count:
            raise CountMismatch(f"{total.count} instances were summed, but the step has {count}")
        return total


def maximal_nodes(nodes: Iterable[Node]) -> list[Node]:
    """Return the nodes that lie within no other, from left to right.

    Two nodes are disjoint or nested, so each leaf that any of them covers is covered once.
    """
    maximal: list[Node] = []
    for node in sorted(nodes, key=lambda node: (node.leaves.start, -node.level)):
        if not maximal or node.leaves.start >= maximal[-1].leaves.stop:
            maximal.append(node)
    return maximal


def reduce_nodes(
    nodes: Iterable[Node], num_leaves: int, add_pairs: Callable[[list[tuple[Array, Array]]], None]
) -> TreeReduction:
    """Return the tree over disjoint nodes; ``add_pairs`` adds all pairs of gradients in order."""
    pairs: list[tuple[Array, Array]] = []

    def defer(left: Array, right: Array) -> Array:
        pairs.append((left, right))
        return left

    tree = TreeReduction(num_leaves, add=defer)
    for node in nodes:
        tree.add(node)
    add_pairs(pairs)
    return tree
