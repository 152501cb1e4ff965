"""Rows by their numbers: the same ones, wherever they are written."""

import numpy as np
import pytest
from numpy.typing import NDArray

from sumgrad.cluster.planning.data_source import ArraySource

X = np.arange(24, dtype=np.float32).reshape(8, 3)
SOURCE = ArraySource(X, np.arange(8))


def test_a_slice_is_a_view() -> None:
    x, d = SOURCE.read(slice(2, 4), np.empty((2, 3), np.float32))
    assert np.shares_memory(x, X)
    assert d.tolist() == [2, 3]


def test_rows_are_written_where_they_shall_be() -> None:
    rows, into = np.array([7, 0, 7]), np.empty((3, 3), np.float32)
    x, d = SOURCE.read(rows, into)
    assert x is into
    assert x.tolist() == X[rows].tolist()
    assert d.tolist() == [7, 0, 7]


@pytest.mark.parametrize("into", [None, np.empty((3, 3)), np.empty((3, 2), np.float32)])
def test_a_place_that_does_not_suit_is_left_alone(into: NDArray[np.float32] | None) -> None:
    rows = np.array([1, 2, 5])
    x, _ = SOURCE.read(rows, into)
    assert x is not into
    assert x.tolist() == X[rows].tolist()


def test_a_row_that_is_not_there_is_no_other_row() -> None:
    with pytest.raises(IndexError):
        SOURCE.read(np.array([8]), np.empty((1, 3), np.float32))


@pytest.mark.parametrize("x", [X.T.copy().T, np.asfortranarray(X), X[:, :2], X[:, ::-1]])
def test_rows_of_any_layout_are_written_where_they_shall_be(
    x: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`take` would make a copy of all of them each time."""
    monkeypatch.setattr(np, "take", None)
    rows, into = np.array([7, 0, 7]), np.empty((3, x.shape[1]), np.float32)
    fetched, d = ArraySource(x, np.arange(8)).read(rows, into)
    assert fetched is into
    assert fetched.tolist() == x[rows].tolist()
    assert d.tolist() == [7, 0, 7]
