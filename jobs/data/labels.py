"""Labels that are numbers: whole ones are classes, any are the targets of a regression."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: From here on a 64-bit whole number cannot hold them.
_TOO_LARGE = 2.0**63


def not_classes(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which finite numbers (N,) cannot name a class: 3.5, and what no 64-bit integer holds.

    >>> not_classes(np.array([3.0, 3.5]))
    array([False,  True])
    """
    if values.dtype.kind == "i":
        return np.zeros(values.shape, dtype=bool)
    return np.asarray((values != np.floor(values)) | (np.abs(values) >= _TOO_LARGE))


def shaped_labels(values: NDArray[Any], *, numbers: bool) -> NDArray[Any]:
    """Whole numbers (N,) as a regression's targets (N, 1), or as classes (N,)."""
    return values.astype(np.float64)[:, None] if numbers else values.astype(np.int64)


def in_training_terms(labels: NDArray[Any], known: tuple[int | str, ...]) -> NDArray[Any]:
    """Labels that training knows as numbers where here they are texts, or the other way round.

    A CSV file's types are guessed file by file: one text among the labels makes texts of them all.

    >>> in_training_terms(np.array(["1", "none"], dtype=object), (1, 2, "none")).tolist()
    [1, 'none']
    """
    found = labels.tolist()
    by_text = {str(label): label for label in known}
    same = set(known)
    if all(label in same for label in found):
        return labels
    return np.array(
        [label if label in same else by_text.get(str(label), label) for label in found],
        dtype=object,
    )
