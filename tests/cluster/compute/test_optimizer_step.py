"""The chunked update has the bits of the whole one, and its norm does not overflow."""

import numpy as np
import pytest

from sumgrad.cluster.compute import chunks
from sumgrad.cluster.compute.chunks import ChunkedVector
from sumgrad.cluster.compute.optimizer_step import ChunkedOptimizer
from sumgrad.model.optimizers import OPTIMIZERS, GradientDescent, make_optimizer


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_chunked_update_has_the_bits_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, name: str, decay: float, threads: int
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_SIZE", 10)
    monkeypatch.setattr(chunks, "MIN_SIZE_PER_THREAD", 5)
    optimizer = make_optimizer(name, weight_decay=decay)
    generator = np.random.default_rng(4)
    whole = generator.standard_normal(33).astype(np.float32)
    whole_state = optimizer.init(whole)
    W, out = whole.copy(), np.empty_like(whole)
    state = optimizer.init(W)
    chunked = ChunkedOptimizer(optimizer, 33)
    chunked._chunks = ChunkedVector(33, threads)
    for _ in range(3):
        S = generator.standard_normal(33).astype(np.float32)
        before = W.copy()
        norm = chunked.step(W, S, 7, state, 0.1, out)
        assert W.tobytes() == before.tobytes()
        assert norm == pytest.approx(np.linalg.norm(S), rel=1e-6)
        whole, whole_state = optimizer.update(whole, S, 7, whole_state, 0.1)
        W, out = out, W
        assert W.tobytes() == whole.tobytes()
        assert state.keys() == whole_state.keys()
        assert all(state[key].tobytes() == whole_state[key].tobytes() for key in state)
    chunked.close()


def norm_of(S: np.ndarray) -> float:
    chunked = ChunkedOptimizer(GradientDescent(), len(S))
    return chunked.step(np.zeros_like(S), S, 1, {}, 0.0, out=np.empty_like(S))


@pytest.mark.parametrize(
    ("dtype", "size"),
    [(np.float32, 1e30), (np.float64, 1e30), (np.float64, 1e160), (np.float64, -1e300)],
)
def test_the_norm_of_elements_whose_squares_overflow_is_finite(dtype: type, size: float) -> None:
    assert norm_of(np.full(4, size, dtype)) == pytest.approx(2 * abs(size), rel=1e-6)


def test_the_norm_of_chunks_whose_sum_overflows_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_SIZE", 1)
    assert norm_of(np.full(8, 1.2e154)) == pytest.approx(8**0.5 * 1.2e154)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_the_norm_is_not_finite_if_an_element_is_not(dtype: type, bad: float) -> None:
    assert not np.isfinite(norm_of(np.array([1e30, bad, 1], dtype)))
    assert not np.isfinite(norm_of(np.full(3, np.finfo(np.float64).max)))
