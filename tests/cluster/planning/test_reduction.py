"""The exact sum: its bits do not depend on arrival order nor on who adds what."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sumgrad.cluster.errors import CountMismatch
from sumgrad.cluster.planning.reduction import Node, PartialSum, TreeReduction
from sumgrad.model.validation import Array


def leaves(count: int, seed: int = 0) -> list[Node]:
    """Leaves whose magnitudes differ so much that every other order of adding rounds otherwise."""
    generator = np.random.default_rng(seed)
    scales = 10.0 ** generator.uniform(-4, 4, count)
    return [
        Node(
            0,
            index,
            PartialSum(
                (generator.standard_normal(33) * scale).astype(np.float32),
                float(generator.standard_normal() * scale),
                index,
                index + 1,
            ),
        )
        for index, scale in enumerate(scales)
    ]


def copy(nodes: Sequence[Node]) -> list[Node]:
    """Merging writes into what it is given."""
    return [
        Node(
            n.level,
            n.index,
            PartialSum(
                None if n.sum.gradient is None else n.sum.gradient.copy(),
                n.sum.divergence,
                n.sum.correct,
                n.sum.count,
            ),
        )
        for n in nodes
    ]


def total(nodes: Sequence[Node], count: int) -> tuple[bytes, float, int, int]:
    """The tree's root over these leaves, as things to compare."""
    tree = TreeReduction(count)
    for node in copy(nodes):
        tree.add(node)
    root = tree.root(count * (count + 1) // 2)
    assert root.gradient is not None
    return root.gradient.tobytes(), root.divergence, root.correct, root.count


def recursive(arrays: Sequence[Array]) -> Array:
    """The tree's definition, top down: an oracle that shares nothing with the bottom-up code."""
    if len(arrays) == 1:
        return arrays[0]
    half = 1 << (len(arrays) - 1).bit_length() - 1
    result: Array = recursive(arrays[:half]) + recursive(arrays[half:])
    return result


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 13, 16, 31, 33])
def test_it_is_the_binary_tree_of_its_definition(count: int) -> None:
    nodes = leaves(count)
    arrays = [n.sum.gradient for n in nodes if n.sum.gradient is not None]
    assert total(nodes, count)[0] == recursive(arrays).tobytes()


@settings(derandomize=True, deadline=None)
@given(count=st.integers(1, 40), data=st.data())
def test_arrival_order_is_never_visible(count: int, data: st.DataObject) -> None:
    nodes = leaves(count)
    order = data.draw(st.permutations(range(count)))
    assert total([nodes[i] for i in order], count) == total(nodes, count)


@settings(derandomize=True, deadline=None)
@given(count=st.integers(1, 40), data=st.data())
def test_any_assignment_of_micro_shards_to_workers_gives_the_same_bits(
    count: int, data: st.DataObject
) -> None:
    nodes = leaves(count)
    owners = data.draw(st.lists(st.integers(0, 6), min_size=count, max_size=count))
    sent: list[Node] = []
    for worker in range(7):
        own = TreeReduction(count)
        for node, owner in zip(copy(nodes), owners, strict=True):
            if owner == worker:
                own.add(node)
        sent.extend(own.nodes())
    sent = data.draw(st.permutations(sent))
    assert total(sent, count) == total(nodes, count)


def test_mutation_adding_in_arrival_order_would_be_caught() -> None:
    """The mutation that the tests above must catch: `sum` in the order of arrival."""
    arrays = [n.sum.gradient for n in leaves(16) if n.sum.gradient is not None]
    in_order = np.sum(np.stack(arrays), axis=0, dtype=np.float32)
    one_by_one = arrays[0].copy()
    for array in arrays[1:]:
        one_by_one = one_by_one + array
    exact = recursive(arrays).tobytes()
    assert one_by_one.tobytes() != exact
    assert in_order.tobytes() != exact
    reversed_arrival = arrays[-1].copy()
    for array in arrays[-2::-1]:
        reversed_arrival = reversed_arrival + array
    assert reversed_arrival.tobytes() != one_by_one.tobytes()


def test_a_node_that_comes_twice_is_refused() -> None:
    tree = TreeReduction(4)
    first, second, *_ = leaves(4)
    tree.add(first)
    with pytest.raises(CountMismatch, match="came twice"):
        tree.add(copy([first])[0])
    tree.add(second)
    with pytest.raises(CountMismatch, match="came twice"):
        tree.add(Node(1, 0, copy([first])[0].sum))


@pytest.mark.parametrize(("level", "index"), [(0, 5), (1, 3), (0, -1), (3, 1)])
def test_a_node_of_another_tree_is_refused(level: int, index: int) -> None:
    with pytest.raises(CountMismatch, match="not of a tree of 5 shards"):
        TreeReduction(5).add(Node(level, index, leaves(1)[0].sum))


def test_an_incomplete_sum_is_refused() -> None:
    tree = TreeReduction(3)
    with pytest.raises(CountMismatch, match="incomplete"):
        tree.root(6)
    for node in leaves(3)[:2]:
        tree.add(node)
    with pytest.raises(CountMismatch, match="incomplete"):
        tree.root(3)


def test_a_wrong_count_of_instances_is_refused() -> None:
    tree = TreeReduction(2)
    for node in leaves(2):
        tree.add(node)
    with pytest.raises(CountMismatch, match="3 instances were summed, the step has 4"):
        tree.root(4)
