"""The deterministic reduction: its bits do not depend on arrival order or on the workers."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumgrad.cluster.errors import CountMismatch
from sumgrad.cluster.planning.reduction import (
    Node,
    PartialSum,
    TreeReduction,
    maximal_nodes,
    reduce_nodes,
)
from sumgrad.model.validation import Array
from tests.fuzzing import cases


def leaves(count: int, seed: int = 0) -> list[Node]:
    """Return leaves whose magnitudes differ so much that any other order of additions shows."""
    generator = np.random.default_rng(seed)
    nodes = []
    for index, scale in enumerate(10.0 ** generator.uniform(-4, 4, count)):
        gradient = (generator.standard_normal(33) * scale).astype(np.float32)
        divergence = float(generator.standard_normal() * scale)
        nodes.append(Node(0, index, PartialSum(gradient, divergence, 2 * index, index + 1)))
    return nodes


def copy(nodes: Sequence[Node]) -> list[Node]:
    """Copy the nodes, because a reduction overwrites their gradients."""
    return [replace(n, sum=replace(n.sum, gradient=gradient_of(n).copy())) for n in nodes]


def gradient_of(node: Node) -> Array:
    assert node.sum.gradient is not None
    return node.sum.gradient


def num_instances(count: int) -> int:
    return count * (count + 1) // 2


def values(root: PartialSum) -> tuple[bytes, float, int, int]:
    assert root.gradient is not None
    return root.gradient.tobytes(), root.divergence, root.correct, root.count


def reduce(nodes: Sequence[Node], count: int) -> tuple[bytes, float, int, int]:
    tree = TreeReduction(count)
    for node in copy(nodes):
        tree.add(node)
    return values(tree.root(num_instances(count)))


def recursive(arrays: Sequence[Array]) -> Array:
    """Sum by the tree's definition, top down; shares nothing with the bottom-up code."""
    if len(arrays) == 1:
        return arrays[0]
    half = 1 << (len(arrays) - 1).bit_length() - 1
    result: Array = recursive(arrays[:half]) + recursive(arrays[half:])
    return result


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 13, 16, 31, 33])
def test_the_sum_is_the_binary_tree_of_the_definition(count: int) -> None:
    nodes = leaves(count)
    gradient = recursive([gradient_of(node) for node in nodes]).tobytes()
    divergence = float(recursive([np.array(node.sum.divergence) for node in nodes]))
    correct = sum(2 * index for index in range(count))
    assert reduce(nodes, count) == (gradient, divergence, correct, num_instances(count))


@cases(50)
@given(count=st.integers(1, 40), data=st.data())
def test_arrival_order_is_never_visible(count: int, data: st.DataObject) -> None:
    nodes = leaves(count)
    order = data.draw(st.permutations(range(count)))
    assert reduce([nodes[i] for i in order], count) == reduce(nodes, count)


def split(nodes: Sequence[Node], count: int, owners: Sequence[int]) -> list[Node]:
    """Return what workers send if each reduces its own leaves."""
    sent: list[Node] = []
    for worker in range(7):
        own = TreeReduction(count)
        for node, owner in zip(copy(nodes), owners, strict=True):
            if owner == worker:
                own.add(node)
        sent += own.nodes()
    return sent


@cases(50)
@given(count=st.integers(1, 40), data=st.data())
def test_any_assignment_of_microbatches_to_workers_gives_the_same_bits(
    count: int, data: st.DataObject
) -> None:
    nodes = leaves(count)
    owners = data.draw(st.lists(st.integers(0, 6), min_size=count, max_size=count))
    sent = data.draw(st.permutations(split(nodes, count, owners)))
    assert reduce(sent, count) == reduce(nodes, count)


def test_mutation_adding_in_arrival_order_would_be_caught() -> None:
    """The mutation that the tests above must catch: adding in the order of arrival."""
    arrays = [gradient_of(node) for node in leaves(16)]
    expected = recursive(arrays).tobytes()
    forward, backward = arrays[0], arrays[-1]
    for array in arrays[1:]:
        forward = forward + array
    for array in arrays[-2::-1]:
        backward = backward + array
    at_once = np.sum(np.stack(arrays), axis=0, dtype=np.float32)
    assert len({expected, forward.tobytes(), backward.tobytes(), at_once.tobytes()}) >= 3
    assert expected not in (forward.tobytes(), backward.tobytes(), at_once.tobytes())


def test_an_evaluation_has_no_gradient() -> None:
    tree = TreeReduction(2)
    for index in (1, 0):
        tree.add(Node(0, index, PartialSum(None, 1.5, index, 4)))
    assert tree.root(8) == PartialSum(None, 3.0, 1, 8)


def test_a_node_that_is_added_twice_is_refused() -> None:
    tree = TreeReduction(4)
    first, second, *_ = leaves(4)
    tree.add(first)
    with pytest.raises(CountMismatch, match=r"node \(0, 0\) was added twice"):
        tree.add(copy([first])[0])
    tree.add(second)
    with pytest.raises(CountMismatch, match=r"node \(1, 0\) was added twice"):
        tree.add(Node(1, 0, copy([first])[0].sum))
    for node in leaves(4)[2:]:
        tree.add(node)
    with pytest.raises(CountMismatch, match=r"node \(2, 0\) was added twice"):
        tree.add(Node(2, 0, copy([first])[0].sum))


@pytest.mark.parametrize(("level", "index"), [(0, 5), (1, 3), (0, -1), (3, 1)])
def test_a_node_outside_the_tree_is_refused(level: int, index: int) -> None:
    with pytest.raises(CountMismatch, match="not part of a tree of 5 microbatches"):
        TreeReduction(5).add(Node(level, index, leaves(1)[0].sum))


@pytest.mark.parametrize("present", [(), (0,), (0, 1), (2,), (0, 2)])
def test_an_incomplete_sum_is_refused(present: Sequence[int]) -> None:
    tree, nodes = TreeReduction(3), leaves(3)
    for index in present:
        tree.add(nodes[index])
    with pytest.raises(CountMismatch, match="the sum of 3 microbatches is incomplete"):
        tree.root(sum(nodes[index].sum.count for index in present))


def test_a_wrong_count_of_instances_is_refused() -> None:
    tree = TreeReduction(2)
    for node in leaves(2):
        tree.add(node)
    with pytest.raises(CountMismatch, match="3 instances were summed, but the step has 4"):
        tree.root(4)


def node_at(level: int, index: int) -> Node:
    return Node(level, index, PartialSum(None, 0.0, 0, 1))


def test_a_node_knows_its_leaves() -> None:
    assert node_at(0, 3).leaves == range(3, 4)
    assert node_at(2, 3).leaves == range(12, 16)


def test_maximal_nodes_are_those_within_no_other() -> None:
    nested = [(0, 3), (1, 1), (0, 0), (2, 1), (0, 5), (1, 1), (1, 4), (0, 8), (0, 10)]
    kept = maximal_nodes([node_at(*position) for position in nested])
    assert [(n.level, n.index) for n in kept] == [(0, 0), (1, 1), (2, 1), (1, 4), (0, 10)]


@cases(50)
@given(
    st.lists(st.integers(0, 4).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, 16 >> n))))
)
def test_maximal_nodes_cover_every_leaf_once(positions: list[tuple[int, int]]) -> None:
    nodes = [node_at(*position) for position in positions]
    covered = [leaf for node in maximal_nodes(nodes) for leaf in node.leaves]
    assert covered == sorted({leaf for node in nodes for leaf in node.leaves})


@pytest.mark.parametrize("count", [1, 2, 5, 8, 13])
def test_deferred_additions_give_the_same_tree(count: int) -> None:
    calls = []

    def add_pairs(pairs: Sequence[tuple[Array, Array]]) -> None:
        calls.append(len(pairs))
        for left, right in pairs:
            np.add(left, right, out=left)

    tree = reduce_nodes(leaves(count), count, add_pairs)
    assert values(tree.root(num_instances(count))) == reduce(leaves(count), count)
    assert calls == [count - 1], "all additions are made in one call"
