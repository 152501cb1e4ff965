"""Checks of arrays, so that nothing broadcasts by accident, and hints for unknown names."""

import difflib
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sumgrad.model.errors import ShapeError

Array = NDArray[np.floating]  #: Arrays of the job's dtype, float32 or float64.

#: What other libraries call things, and the name here.
SYNONYMS: Mapping[str, str] = {
    "abs": "absolute",
    "cross_entropy": "kl",
    "crossentropy": "kl",
    "exponential": "step",
    "glorot_normal": "xavier_normal",
    "glorot_uniform": "xavier_uniform",
    "kaiming_normal": "he_normal",
    "kaiming_uniform": "he_uniform",
    "linear": "identity",
    "logistic": "sigmoid",
    "mse": "l2",
    "none": "identity",
    "sgd": "gradient_descent",
    "swish": "silu",
}


def check_shape(name: str, array: NDArray[np.generic], *shape: int | None) -> None:
    """Raise `ShapeError` unless ``array`` has this shape; ``None`` matches any size."""
    actual = array.shape
    # Nearly every call returns here, and each microbatch makes several.
    if actual == shape:
        return
    if len(actual) != len(shape) or any(
        size not in (None, found) for size, found in zip(shape, actual, strict=True)
    ):
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise ShapeError(f"{name} has shape {actual}, expected ({expected})")


def check_dtype(name: str, array: NDArray[np.generic], dtype: DTypeLike) -> None:
    """Raise `ShapeError` unless ``array`` has this dtype; NumPy would promote it silently."""
    if array.dtype != dtype:
        raise ShapeError(f"{name} is {array.dtype}, expected {np.dtype(dtype)}")


def as_float_array(name: str, array: NDArray[np.generic], dtype: DTypeLike) -> Array:
    """Return the data in this dtype, row-major and aligned, copied only where necessary.

    The memory order matters: BLAS and NumPy's sums process column-major memory differently, so
    equal values would not always give equal bits.
    """
    if array.dtype.kind not in "biuf":
        raise ShapeError(f"{name} is {array.dtype}, expected numbers")
    return np.require(array, dtype=dtype, requirements=["C", "A"])


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown name: the most similar known one, or all of them.

    >>> did_you_mean("sigmoyd", ["sigmoid", "tanh"])
    "did you mean 'sigmoid'?"
    >>> did_you_mean("?", ["sigmoid", "tanh"])
    'known: sigmoid, tanh'
    """
    known = sorted(known)
    synonym = SYNONYMS.get(name.lower())
    similar = difflib.get_close_matches(name.lower(), known, n=1)
    match = synonym if synonym in known else next(iter(similar), None)
    return f"did you mean '{match}'?" if match else f"known: {', '.join(known)}"
