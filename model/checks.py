"""Nothing broadcasts by accident: arrays are compared with the shape that the equation states."""

import difflib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from model.errors import ShapeError

#: Arrays of the job's dtype, float32 or float64.
Array = NDArray[np.floating]


def expect_shape(name: str, array: NDArray[np.generic], *shape: int | None) -> None:
    """Raise unless ``array`` has this shape; ``None`` stands for any size.

    Raises:
        ShapeError: Names the array, the expected shape and the actual one.
    """
    fits = len(array.shape) == len(shape) and all(
        want is None or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits:
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise ShapeError(f"{name} has shape {array.shape}, expected ({expected})")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: the nearest known one, or all of them.

    >>> nearest("sigmoyd", ["sigmoid", "tanh"])
    "did you mean 'sigmoid'?"
    >>> nearest("?", ["sigmoid", "tanh"])
    'known: sigmoid, tanh'
    """
    known = sorted(known)
    match = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean '{match[0]}'?" if match else f"known: {', '.join(known)}"
