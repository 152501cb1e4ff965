"""Holding rows out: seeded, by class where there are classes, and in their original order."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]


def stratified_split(
    labels: NDArray[Any], fraction: float, *, by_class: bool, generator: np.random.Generator
) -> tuple[Indices, Indices]:
    """Divide rows into those kept and those held out.

    A class of two rows or more has some in both; the only row of a class is kept.

    Args:
        labels: (N,) or (N, K).
        fraction: The share to hold out, of every class alike where ``by_class``.
        by_class: Whether labels are classes.
        generator: Decides which rows.

    Returns:
        Row numbers kept and held out, each ascending.

    >>> kept, held = stratified_split(
    ...     np.array([0, 0, 0, 0, 1, 1]), 0.5, by_class=True, generator=np.random.default_rng(0)
    ... )
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
        held[generator.permutation(rows)[:share]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def _rows_by_class(labels: NDArray[Any]) -> list[Indices]:
    """The rows of each class, ascending; the classes in the order of their texts."""
    # A NumPy array of texts would give each the room of the longest.
    texts = np.array([str(label) for label in labels.tolist()], dtype=object)
    _, group, counts = np.unique(texts, return_inverse=True, return_counts=True)
    rows = np.argsort(group, kind="stable")
    return np.split(rows, np.cumsum(counts)[:-1])
