"""Labels that are numbers: whole numbers are classes; any numbers are targets of a regression."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: The first number that does not fit into a 64-bit integer.
_INT64_END = 2.0**63


def is_not_class(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which finite numbers (N,) are not whole, or do not fit into a 64-bit integer.

    >>> is_not_class(np.array([3.0, 3.5]))
    array([False,  True])
    """
    if values.dtype.kind == "i":
        return np.zeros(values.shape, dtype=bool)
    return np.asarray((values != np.floor(values)) | (np.abs(values) >= _INT64_END))


def whole_labels(values: NDArray[Any], *, numeric: bool) -> NDArray[Any]:
    """Return whole numbers (N,) as targets of a regression (N, 1), or as classes (N,)."""
    return values.astype(np.float64)[:, None] if numeric else values.astype(np.int64)


def match_label_types(labels: NDArray[Any], known: tuple[int | str, ...]) -> NDArray[Any]:
    """Return labels with the types of training: a text becomes a number if it is one there.

    The types of a CSV file are inferred file by file, and one text makes texts of all its labels.

    >>> match_label_types(np.array(["1", "none"], dtype=object), (1, 2, "none")).tolist()
    [1, 'none']
    """
    found = labels.tolist()
    is_known = set(known)
    if is_known.issuperset(found):
        return labels
    by_text = {str(label): label for label in known}
    return np.array(
        [label if label in is_known else by_text.get(str(label), label) for label in found],
        dtype=object,
    )
