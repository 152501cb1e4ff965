"""Chunks and threads change no bit of an operation on long vectors."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from sumgrad.cluster.compute import chunks
from sumgrad.cluster.compute.chunks import ChunkedVector


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def vector(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ChunkedVector]:
    """33 elements in chunks of 10."""
    monkeypatch.setattr(chunks, "CHUNK_SIZE", 10)
    monkeypatch.setattr(chunks, "MIN_SIZE_PER_THREAD", 5)
    vector = ChunkedVector(33, request.param)
    yield vector
    vector.close()


def test_results_come_in_the_order_of_the_chunks(vector: ChunkedVector) -> None:
    bounds = vector.map(lambda chunk: (chunk.start, chunk.stop))
    assert bounds == [(0, 10), (10, 20), (20, 30), (30, 33)]


@pytest.mark.parametrize("start", [0, 30])
def test_an_error_in_any_chunk_is_raised(vector: ChunkedVector, start: int) -> None:
    def fail(chunk: slice) -> None:
        if chunk.start == start:
            raise MemoryError("no memory")

    with pytest.raises(MemoryError, match="no memory"):
        vector.map(fail)


def test_pairs_are_added_in_order(vector: ChunkedVector) -> None:
    generator = np.random.default_rng(3)
    a, b, c = (generator.standard_normal(33).astype(np.float32) for _ in range(3))
    expected = (a + b) + c
    vector.add_pairs([(a, b), (a, c)])
    assert a.tobytes() == expected.tobytes()
    vector.add_pairs([])


def test_numpy_does_not_warn_of_overflow(vector: ChunkedVector) -> None:
    large = np.full(33, np.finfo(np.float32).max)
    vector.add_pairs([(large, large.copy())])
    assert np.isinf(large).all()


@pytest.mark.parametrize(("size", "threads"), [(9, 1), (14, 2), (15, 3), (100, 3)])
def test_short_vectors_use_fewer_threads(
    size: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_SIZE", 1)
    monkeypatch.setattr(chunks, "MIN_SIZE_PER_THREAD", 5)
    vector = ChunkedVector(size, 3)
    met = threading.Barrier(threads)
    seen = set()

    def work(_: slice) -> None:
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            met.wait(10)

    vector.map(work)
    assert len(seen) == threads
    vector.close()
