"""Work on long vectors: neither the blocks nor the threads are visible in a bit."""

import numpy as np
import pytest

from sumgrad.cluster.compute import chunks as module
from sumgrad.cluster.compute.chunks import ChunkedVector
from sumgrad.cluster.compute.optimizer_step import ChunkedOptimizer
from sumgrad.cluster.planning.reduction import (
    Node,
    PartialSum,
    TreeReduction,
    largest,
    reduce_nodes,
)
from sumgrad.model.optimizers import OPTIMIZERS, make_optimizer
from tests.cluster.planning.test_reduction import leaves


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ChunkedVector:
    monkeypatch.setattr(module, "CHUNK_SIZE", 10)
    monkeypatch.setattr(module, "MIN_WORK_FOR_THREADS", 5)
    return ChunkedVector(33, request.param)


def test_results_come_in_the_order_of_the_blocks(blocks: ChunkedVector) -> None:
    assert blocks.map(lambda block: (block.start, block.stop)) == [
        (0, 10),
        (10, 20),
        (20, 30),
        (30, 33),
    ]
    blocks.close()


def test_an_error_in_any_block_is_raised(blocks: ChunkedVector) -> None:
    def fail(block: slice) -> None:
        if block.start == 30:
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        blocks.map(fail)
    blocks.close()


@pytest.mark.parametrize("count", [1, 2, 5, 8, 13])
def test_a_combined_sum_is_the_tree(blocks: ChunkedVector, count: int) -> None:
    tree = TreeReduction(count)
    for node in leaves(count):
        tree.add(node)
    instances = count * (count + 1) // 2
    expected, actual = (
        tree.root(instances),
        reduce_nodes(leaves(count), count, blocks).root(instances),
    )
    assert expected.gradient is not None
    assert actual.gradient is not None
    assert actual.gradient.tobytes() == expected.gradient.tobytes()
    assert actual.divergence == expected.divergence
    blocks.close()


def test_of_nodes_within_each_other_the_largest_are_kept() -> None:
    def node(level: int, index: int) -> Node:
        return Node(level, index, PartialSum(None, 0.0, 0, 1))

    kept = largest([node(0, 3), node(1, 1), node(0, 0), node(2, 1), node(0, 5), node(1, 1)])
    assert {(n.level, n.index) for n in kept} == {(2, 1), (1, 1), (0, 0)}


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("threads", [1, 3])
def test_an_update_in_blocks_has_the_bits_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, name: str, decay: float, threads: int
) -> None:
    monkeypatch.setattr(module, "CHUNK_SIZE", 10)
    monkeypatch.setattr(module, "MIN_WORK_FOR_THREADS", 5)
    optimizer = make_optimizer(name, weight_decay=decay)
    generator = np.random.default_rng(4)
    whole = generator.standard_normal(33).astype(np.float32)
    whole_state = optimizer.init(whole)
    W, out = whole.copy(), np.empty_like(whole)
    state = optimizer.init(W)
    update = ChunkedOptimizer(optimizer, 33)
    update._blocks = ChunkedVector(33, threads)
    for _ in range(3):
        S = generator.standard_normal(33).astype(np.float32)
        before = W.copy()
        norm = update.step(W, S, 7, state, 0.1, out)
        assert W.tobytes() == before.tobytes()
        assert norm == pytest.approx(np.linalg.norm(S), rel=1e-6)
        whole, whole_state = optimizer.update(whole, S, 7, whole_state, 0.1)
        W, out = out, W
        assert W.tobytes() == whole.tobytes()
        assert state.keys() == whole_state.keys()
        assert all(state[key].tobytes() == whole_state[key].tobytes() for key in state)
    update.close()


def test_the_norm_of_gradients_whose_squares_overflow_is_finite() -> None:
    update = ChunkedOptimizer(make_optimizer("gradient_descent"), 4)
    S = np.full(4, 1e30, dtype=np.float32)
    W, out = np.zeros(4, dtype=np.float32), np.empty(4, dtype=np.float32)
    assert update.step(W, S, 1, {}, 0.1, out) == pytest.approx(2e30, rel=1e-6)
    S[2] = np.inf
    assert update.step(W, S, 1, {}, 0.1, out) == np.inf
    S[2] = np.nan
    assert np.isnan(update.step(W, S, 1, {}, 0.1, out))
    update.close()
