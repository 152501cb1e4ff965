"""Divergences between the output y and the desired output d, per instance, never averaged.

Each gradient is the derivative of exactly the value, which tests prove numerically. A divergence
may be *fused* with the activation whose logits it takes, which is stable and cheap:
``∇_z = y − d``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sumgrad.model.activations.base import Activation
from sumgrad.model.activations.scalar import Sigmoid, softplus
from sumgrad.model.activations.vector import Softmax
from sumgrad.model.errors import OptionError, ShapeError
from sumgrad.model.validation import Array, as_float_array, check_shape, did_you_mean

Targets = NDArray[Any]  #: Desired outputs: (B, D) numbers, or in multi-class KL (B,) class indices.


def xlogx(d: Array) -> Array:
    """Return ``d·log d``, which is 0 at d = 0, so that one-hot targets stay finite."""
    return d * np.log(np.where(d > 0, d, 1))


def finite_log(y: Array) -> Array:
    """Return ``log y``, extended by its tangent below the smallest normal number ε."""
    epsilon = np.finfo(y.dtype).tiny
    return np.log(np.maximum(y, epsilon)) + np.minimum(y - epsilon, 0) / epsilon


def log_grad(y: Array) -> Array:
    """Return the derivative of `finite_log`: ``1/y``, and ``1/ε`` below ε."""
    return 1 / np.maximum(y, np.finfo(y.dtype).tiny)


@dataclass(frozen=True)
class Divergence(ABC):
    """``Div(y, d)`` for each instance, and ``∇_y Div``."""

    fused: ClassVar[type[Activation] | None] = None  #: The activation that the fused path includes.

    def targets(self, d: Targets, y: Array) -> Targets:
        """Return valid targets for y (B, D): numbers in y's dtype, row-major; or ShapeError.

        By default they have y's shape; (B,) becomes (B, 1) if y has one column.
        """
        if d.ndim == 1 and y.shape[1] == 1:
            d = d[:, None]
        check_shape("the desired output d", d, *y.shape)
        return as_float_array("the desired output d", d, y.dtype)

    @abstractmethod
    def value(self, y: Array, d: Targets) -> Array:
        """Return ``Div(y, d)``, (B,), for y (B, D) and d from `targets`."""

    @abstractmethod
    def gradient(self, y: Array, d: Targets) -> Array:
        """Return ``∇_y Div``, (B, D)."""

    def fused_value(self, z: Array, y: Array, d: Targets) -> Array:
        """Return ``Div(f(z), d)``, (B,), for the fused activation f and ``y = f(z)``."""
        raise NotImplementedError(f"{type(self).__name__} has no fused path")

    def fused_gradient(self, y: Array, d: Targets) -> Array:
        """Return ``∇_z Div(f(z), d)``, (B, D), for ``y = f(z)``; newly allocated."""
        raise NotImplementedError(f"{type(self).__name__} has no fused path")


@dataclass(frozen=True)
class L2(Divergence):
    """``Div = ½ Σ_i (y_i − d_i)²``, ``∇_y = y − d``."""

    def value(self, y: Array, d: Targets) -> Array:
        return 0.5 * np.sum(np.square(y - d), axis=1)

    def gradient(self, y: Array, d: Targets) -> Array:
        return y - d


@dataclass(frozen=True)
class TwoClassKL(Divergence):
    """``Div = Σ_i d_i log(d_i/y_i) + (1−d_i) log((1−d_i)/(1−y_i))``, for sigmoid outputs.

    For a target of 0 or 1 it is ``−log(1−y)`` or ``−log y``. Fused with the sigmoid:
    ``Div = d·softplus(−z) + (1−d)·softplus(z) + const``, ``∇_z = y − d``.
    """

    fused: ClassVar[type[Activation] | None] = Sigmoid

    def targets(self, d: Targets, y: Array) -> Targets:
        return check_range(super().targets(d, y), 0.0, 1.0)

    def _entropy(self, d: Array) -> Array:
        return xlogx(d) + xlogx(1 - d)

    def value(self, y: Array, d: Targets) -> Array:
        cross = d * finite_log(y) + (1 - d) * finite_log(1 - y)
        return np.sum(self._entropy(d) - cross, axis=1)

    def gradient(self, y: Array, d: Targets) -> Array:
        """Return ``(1−d)/(1−y) − d/y``, finite at 0 and 1."""
        return (1 - d) * log_grad(1 - y) - d * log_grad(y)

    def fused_value(self, z: Array, y: Array, d: Targets) -> Array:
        # softplus(z) − d·z is shorter but cancels catastrophically for large z.
        terms = self._entropy(d) + d * softplus(-z) + (1 - d) * softplus(z)
        return np.sum(terms, axis=1)

    def fused_gradient(self, y: Array, d: Targets) -> Array:
        return y - d


@dataclass(frozen=True)
class MultiClassKL(Divergence):
    """``Div = Σ_i d_i log(d_i/y_i)``, for softmax outputs.

    Targets are class indices, (B,) integers, or distributions, (B, D). For a class index c
    it is ``−log y_c``. Fused with softmax: ``∇_z = y·Σd − d``, which is ``y − d`` for a
    distribution.
    """

    fused: ClassVar[type[Activation] | None] = Softmax

    def targets(self, d: Targets, y: Array) -> Targets:
        if d.ndim != 1:
            return check_range(super().targets(d, y), 0.0, np.inf)
        return as_class_indices(d, y)

    def value(self, y: Array, d: Targets) -> Array:
        d = as_distributions(d, y)
        return np.sum(xlogx(d) - d * finite_log(y), axis=1)

    def gradient(self, y: Array, d: Targets) -> Array:
        """Return ``−d/y``, finite at 0."""
        return -as_distributions(d, y) * log_grad(y)

    def fused_value(self, z: Array, y: Array, d: Targets) -> Array:
        """Use ``−log y_j = (z_* − z_j) − log y_*`` with the arg-max *, where ``y_* ≥ 1/D``.

        So a y_j that underflows to 0 does no harm, and no second sum over the classes is needed.
        """
        top, log_y_top = z.max(axis=1), np.log(y.max(axis=1))
        if d.ndim == 1:
            return top - z[np.arange(len(z)), d] - log_y_top
        surprisal = top[:, None] - z - log_y_top[:, None]
        return np.sum(xlogx(d) + d * surprisal, axis=1)

    def fused_gradient(self, y: Array, d: Targets) -> Array:
        if d.ndim != 1:
            return y * np.sum(d, axis=1, keepdims=True) - d
        result = y.copy("K")
        result[np.arange(len(y)), d] -= 1
        return result


def check_range(d: Array, low: float, high: float) -> Array:
    """Return d unless a value is outside of its range; NaN passes, and makes the loss NaN."""
    outside = (d < low) | (d > high)
    if outside.any():
        limits = f"from {low:g} to {high:g}" if np.isfinite(high) else f"from {low:g}"
        raise ShapeError(f"the desired output d has {d[outside][0]:g}, expected numbers {limits}")
    return d


def as_class_indices(d: Targets, y: Array) -> Targets:
    """Return class indices, (B,), which must be integers from 0, below D, for y (B, D)."""
    check_shape("the classes d", d, len(y))
    if d.dtype.kind not in "iu":
        raise ShapeError(f"class indices are {d.dtype}, expected integers")
    # The cast turns a negative index into a very large one.
    outside = d.astype(np.uint64) >= y.shape[1]
    if outside.any():
        raise ShapeError(f"class index {d[outside][0]} in d, but y has {y.shape[1]} outputs")
    return d.astype(np.intp, copy=False)


def as_distributions(d: Targets, y: Array) -> Array:
    """Return class indices (B,) as one-hot rows (B, D), and distributions unchanged."""
    if d.ndim != 1:
        return np.asarray(d)
    result = np.zeros_like(y)
    result[np.arange(len(y)), d] = 1
    return result


#: Every divergence that a spec can name; `kl` means the one that fits the output layer.
DIVERGENCES: Mapping[str, type[Divergence]] = MappingProxyType(
    {"l2": L2, "kl_two_class": TwoClassKL, "kl_multi_class": MultiClassKL}
)


def resolve_divergence(name: str, output: Activation) -> Divergence:
    """Return the divergence that a spec names, for a network whose last activation is ``output``.

    >>> resolve_divergence("kl", Sigmoid())
    TwoClassKL()
    """
    if name not in DIVERGENCES and name != "kl":
        raise OptionError(
            f"unknown divergence '{name}'", hint=did_you_mean(name, ["kl", *DIVERGENCES])
        )
    if name == "l2":
        return L2()
    fitting = {"probability": TwoClassKL, "distribution": MultiClassKL}.get(output.output_range)
    if fitting is None or (name != "kl" and DIVERGENCES[name] is not fitting):
        kind = type(output).__name__
        raise OptionError(
            f"divergence '{name}' does not fit an output layer of {kind}",
            hint="kl needs a sigmoid (two-class) or a softmax (multi-class) output layer",
        )
    return fitting()
