"""Holding rows out: seeded, by class where there are classes, and in their original order."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sumgrad.model.random_streams import RandomStream

Indices = NDArray[np.intp]


def stratified_split(
    labels: NDArray[Any], fraction: float, *, by_class: bool, stream: RandomStream
) -> tuple[Indices, Indices]:
    """Divide rows into those kept and those held out.

    A class of two rows or more has some in both; the only row of a class is kept.

    Args:
        labels: (N,) or (N, K).
        fraction: The share to hold out, of every class alike where ``by_class``.
        by_class: Whether labels are classes.
        stream: Decides which rows.

    Returns:
        Row numbers kept and held out, each ascending.

    >>> from sumgrad.model.random_streams import Stream
    >>> stream = RandomStream(0, Stream.TEST_SPLIT)
    >>> labels = np.array([0, 0, 0, 0, 1, 1])
    >>> kept, held = stratified_split(labels, 0.5, by_class=True, stream=stream)
    >>> len(kept), len(held)
    (3, 3)
    """
    count = len(labels)
    groups = [np.arange(count)]
    if by_class:
        groups = _rows_by_class(labels)
    held = np.zeros(count, dtype=bool)
    for rows in groups:
        share = round(len(rows) * fraction)
        if by_class:
            share = min(max(share, 1), len(rows) - 1)
        held[rows[stream.permutation(len(rows))[:share]]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def _rows_by_class(labels: NDArray[Any]) -> list[Indices]:
    """The rows of each class, ascending; the classes in the order of their texts."""
    # A NumPy array of texts would give each the room of the longest.
    texts = np.array([str(label) for label in labels.tolist()], dtype=object)
    _, group, counts = np.unique(texts, return_inverse=True, return_counts=True)
    rows = np.argsort(group, kind="stable")
    return np.split(rows, np.cumsum(counts)[:-1])
