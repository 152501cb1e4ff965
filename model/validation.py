"""Nothing broadcasts by accident: arrays are held to the equation's shape and dtype."""

import difflib
from collections.abc import Iterable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sumgrad.model.errors import ShapeError

#: Arrays of the job's dtype, float32 or float64.
Array = NDArray[np.floating]


def check_shape(name: str, array: NDArray[np.generic], *shape: int | None) -> None:
    """Raise unless ``array`` has this shape; ``None`` stands for any size.

    Raises:
        ShapeError: Names the array, the expected shape and the actual one.
    """
    have = array.shape
    # Nearly every call ends here, and there are some in each microbatch.
    if have == shape:
        return
    if len(have) != len(shape) or any(
        want not in (None, size) for want, size in zip(shape, have, strict=True)
    ):
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise ShapeError(f"{name} has shape {have}, expected ({expected})")


def check_dtype(name: str, array: NDArray[np.generic], dtype: DTypeLike) -> None:
    """Raise unless ``array`` has exactly this dtype, for NumPy would promote in silence.

    Raises:
        ShapeError: Names the array, the expected dtype and the actual one.
    """
    if array.dtype != dtype:
        raise ShapeError(f"{name} is {array.dtype}, expected {np.dtype(dtype)}")


def as_float_array(name: str, array: NDArray[np.generic], dtype: DTypeLike) -> Array:
    """Data brought to this dtype, row-major and aligned; not copied where it is so already.

    The order matters: BLAS and NumPy's sums take other paths through column-major memory, so the
    same values would not always give the same bits.

    Raises:
        ShapeError: The array holds no real numbers.
    """
    if array.dtype.kind not in "biuf":
        raise ShapeError(f"{name} is {array.dtype}, expected numbers")
    result: Array = np.require(array, dtype=dtype, requirements=["C", "A"])
    return result


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: the did_you_mean known one, or all of them.

    >>> did_you_mean("sigmoyd", ["sigmoid", "tanh"])
    "did you mean 'sigmoid'?"
    >>> did_you_mean("?", ["sigmoid", "tanh"])
    'known: sigmoid, tanh'
    """
    known = sorted(known)
    match = difflib.get_close_matches(name.lower(), known, n=1)
    return f"did you mean '{match[0]}'?" if match else f"known: {', '.join(known)}"
