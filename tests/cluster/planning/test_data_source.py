"""Rows by index: the same values, wherever they are written."""

import numpy as np
import pytest
from numpy.typing import NDArray

from sumgrad.cluster.planning.data_source import ArraySource

X = np.arange(24, dtype=np.float32).reshape(8, 3)
SOURCE = ArraySource(X, np.arange(8))


def test_a_slice_is_a_view() -> None:
    x, d = SOURCE.read(slice(2, 4), np.empty((2, 3), np.float32))
    assert np.shares_memory(x, X)
    assert x.tolist() == X[2:4].tolist()
    assert d.tolist() == [2, 3]


def test_rows_are_written_to_the_given_memory() -> None:
    rows, out = np.array([7, 0, 7]), np.empty((3, 3), np.float32)
    x, d = SOURCE.read(rows, out)
    assert x is out
    assert x.tolist() == X[rows].tolist()
    assert d.tolist() == [7, 0, 7]


@pytest.mark.parametrize("out", [None, np.empty((3, 3)), np.empty((3, 2), np.float32)])
def test_memory_of_another_shape_or_dtype_is_not_used(out: NDArray[np.float32] | None) -> None:
    rows = np.array([1, 2, 5])
    x, _ = SOURCE.read(rows, out)
    assert x is not out
    assert x.tolist() == X[rows].tolist()


def test_an_index_out_of_range_raises() -> None:
    with pytest.raises(IndexError):
        SOURCE.read(np.array([8]), np.empty((1, 3), np.float32))


def unaligned(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.frombuffer(b"\0" + x.tobytes(), np.float32, offset=1).reshape(x.shape)


@pytest.mark.parametrize("x", [np.asfortranarray(X), X[:, :2], X[:, ::-1], unaligned(X)])
def test_rows_of_any_memory_layout_are_written_without_copying_the_source(
    x: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "take", None)
    rows, out = np.array([7, 0, 7]), np.empty((3, x.shape[1]), np.float32)
    read, d = ArraySource(x, np.arange(8)).read(rows, out)
    assert read is out
    assert read.tolist() == x[rows].tolist()
    assert d.tolist() == [7, 0, 7]
