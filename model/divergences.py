"""Divergences: how far the output y is from the desired output d, per instance, never averaged.

Value and gradient agree: each gradient is the derivative of exactly the value given, and a test
holds it to numeric derivatives. A divergence may be *fused* with the activation whose logits it
takes, which is both stable and cheap: ``∇_z = y − d``.
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

#: Desired outputs: (B, D) numbers, or for multi-class KL (B,) class indices.
Targets = NDArray[Any]


def xlogx(d: Array) -> Array:
    """``d·log d`` with its limit 0 at d = 0, so that a degenerate target stays finite."""
    result: Array = d * np.log(np.where(d > 0, d, 1))
    return result


def finite_log(y: Array) -> Array:
    """``log y``, continued below the smallest normal number ε by its tangent, so finite at 0."""
    epsilon = np.finfo(y.dtype).tiny
    result: Array = np.log(np.maximum(y, epsilon)) + np.minimum(y - epsilon, 0) / epsilon
    return result


def log_grad(y: Array) -> Array:
    """The derivative of `finite_log`: ``1/y``, and ``1/ε`` below ε."""
    result: Array = 1 / np.maximum(y, np.finfo(y.dtype).tiny)
    return result


@dataclass(frozen=True)
class Divergence(ABC):
    """``Div(y, d)`` for each instance, and ``∇_y Div``."""

    #: The activation whose logits the fused path takes.
    fused: ClassVar[type[Activation] | None] = None

    @abstractmethod
    def targets(self, d: Targets, y: Array) -> Targets:
        """``d`` checked against y (B, D); numbers are brought to its dtype, row-major.

        Raises:
            ShapeError: A shape, a dtype, a class index or a number that does not fit.
        """

    @abstractmethod
    def value(self, y: Array, d: Targets) -> Array:
        """``Div(y, d)``, (B,): y (B, D), d as `targets` gives it."""

    @abstractmethod
    def gradient(self, y: Array, d: Targets) -> Array:
        """``∇_y Div``, (B, D)."""

    def fused_value(self, z: Array, y: Array, d: Targets) -> Array:
        """``Div(f(z), d)``, (B,), from the logits z of the fused activation f, and ``y = f(z)``."""
        raise NotImplementedError(f"{type(self).__name__} has no fused path")

    def fused_gradient(self, y: Array, d: Targets) -> Array:
        """``∇_z Div(f(z), d)``, (B, D), where ``y = f(z)``; newly allocated."""
        raise NotImplementedError(f"{type(self).__name__} has no fused path")


@dataclass(frozen=True)
class L2(Divergence):
    """``Div = ½ Σ_i (y_i − d_i)²``, ``∇_y = y − d``."""

    def targets(self, d: Targets, y: Array) -> Targets:
        return same_shape(d, y)

    def value(self, y: Array, d: Targets) -> Array:
        result: Array = 0.5 * np.sum(np.square(y - d), axis=1)
        return result

    def gradient(self, y: Array, d: Targets) -> Array:
        result: Array = y - d
        return result


@dataclass(frozen=True)
class TwoClassKL(Divergence):
    """``Div = Σ_i d_i log(d_i/y_i) + (1−d_i) log((1−d_i)/(1−y_i))``: KL for sigmoid outputs.

    For a target of 0 or 1 it is ``−log(1−y)`` or ``−log y``. Fused with the sigmoid:
    ``Div = d·softplus(−z) + (1−d)·softplus(z) + const``, ``∇_z = y − d``.
    """

    fused: ClassVar[type[Activation] | None] = Sigmoid

    def targets(self, d: Targets, y: Array) -> Targets:
        return within(same_shape(d, y), 0.0, 1.0)

    def _entropy(self, d: Array) -> Array:
        return xlogx(d) + xlogx(1 - d)

    def value(self, y: Array, d: Targets) -> Array:
        cross = d * finite_log(y) + (1 - d) * finite_log(1 - y)
        result: Array = np.sum(self._entropy(d) - cross, axis=1)
        return result

    def gradient(self, y: Array, d: Targets) -> Array:
        """``(1−d)/(1−y) − d/y``; finite at 0 and 1, see `finite_log`."""
        result: Array = (1 - d) * log_grad(1 - y) - d * log_grad(y)
        return result

    def fused_value(self, z: Array, y: Array, d: Targets) -> Array:
        # Products with softplus, not softplus(z) − d·z, which cancels to nothing for large z.
        terms = self._entropy(d) + d * softplus(-z) + (1 - d) * softplus(z)
        result: Array = np.sum(terms, axis=1)
        return result

    def fused_gradient(self, y: Array, d: Targets) -> Array:
        return y - d


@dataclass(frozen=True)
class MultiClassKL(Divergence):
    """``Div = Σ_i d_i log(d_i/y_i)``: KL for softmax outputs.

    Targets are class indices, (B,) whole numbers, or distributions, (B, D). For a class index c
    it is ``−log y_c``, whose ∇_y is 0 but at c. Fused with softmax: ``∇_z = y·Σd − d``, which is
    ``y − d`` for a distribution.
    """

    fused: ClassVar[type[Activation] | None] = Softmax

    def targets(self, d: Targets, y: Array) -> Targets:
        if d.ndim != 1:
            return within(same_shape(d, y), 0.0, np.inf)
        return as_class_indices(d, y)

    def value(self, y: Array, d: Targets) -> Array:
        d = as_distributions(d, y)
        result: Array = np.sum(xlogx(d) - d * finite_log(y), axis=1)
        return result

    def gradient(self, y: Array, d: Targets) -> Array:
        """``−d/y``; finite at 0, see `finite_log`."""
        result: Array = -as_distributions(d, y) * log_grad(y)
        return result

    def fused_value(self, z: Array, y: Array, d: Targets) -> Array:
        """With ``−log y_j = (z_* − z_j) − log y_*``, where * is the arg-max: y_* is at least 1/D.

        So a y_j that has become 0 does no harm, and nothing is summed over the classes again.
        """
        top, log_y_top = z.max(axis=1), np.log(y.max(axis=1))
        result: Array
        if d.ndim == 1:
            result = top - z[np.arange(len(z)), d] - log_y_top
        else:
            surprise = top[:, None] - z - log_y_top[:, None]
            result = np.sum(xlogx(d) + d * surprise, axis=1)
        return result

    def fused_gradient(self, y: Array, d: Targets) -> Array:
        result: Array
        if d.ndim == 1:
            result = y.copy("K")
            result[np.arange(len(y)), d] -= 1
        else:
            result = y * np.sum(d, axis=1, keepdims=True) - d
        return result


def same_shape(d: Targets, y: Array) -> Array:
    """Targets as numbers of y's shape; (B,) is taken for (B, 1), where y has one column."""
    if d.ndim == 1 and y.shape[1] == 1:
        d = d[:, None]
    check_shape("the desired output d", d, *y.shape)
    return as_float_array("the desired output d", d, y.dtype)


def within(d: Array, low: float, high: float) -> Array:
    """Targets of a KL, which are probabilities; not-a-number is left for the loss to show.

    Raises:
        ShapeError: A number below ``low`` or above ``high``.
    """
    outside = (d < low) | (d > high)
    if outside.any():
        limits = f"from {low:g} to {high:g}" if np.isfinite(high) else f"from {low:g}"
        raise ShapeError(f"the desired output d has {d[outside][0]:g}, expected numbers {limits}")
    return d


def as_class_indices(d: Targets, y: Array) -> Targets:
    """Class indices, (B,), each of which is one of y's D columns.

    Raises:
        ShapeError: Indices that are no whole numbers, or not below D.
    """
    check_shape("the classes d", d, len(y))
    if d.dtype.kind not in "iu":
        raise ShapeError(f"class indices are {d.dtype}, expected whole numbers")
    # A negative one turns into a huge one.
    outside = d.astype(np.uint64) >= y.shape[1]
    if outside.any():
        raise ShapeError(f"class index {d[outside][0]} in d, but y has {y.shape[1]} outputs")
    return d.astype(np.intp, copy=False)


def as_distributions(d: Targets, y: Array) -> Array:
    """Class indices (B,) as (B, D), 1 at the class and 0 elsewhere; distributions as they are."""
    if d.ndim != 1:
        return np.asarray(d)
    result = np.zeros_like(y)
    result[np.arange(len(y)), d] = 1
    return result


#: Every divergence that a spec can name; `kl` stands for the one that fits the output layer.
DIVERGENCES: Mapping[str, type[Divergence]] = MappingProxyType(
    {"l2": L2, "kl_two_class": TwoClassKL, "kl_multi_class": MultiClassKL}
)


def resolve_divergence(name: str, output: Activation) -> Divergence:
    """The divergence that a spec names, for a network whose last activation is ``output``.

    >>> resolve_divergence("kl", Sigmoid())
    TwoClassKL()

    Raises:
        OptionError: An unknown name, or a KL for outputs that are no probabilities.
    """
    if name not in DIVERGENCES and name != "kl":
        raise OptionError(
            f"unknown divergence '{name}'", hint=did_you_mean(name, ["kl", *DIVERGENCES])
        )
    if name == "l2":
        return L2()
    fitting = {"probability": TwoClassKL, "distribution": MultiClassKL}.get(output.output)
    if fitting is None or (name != "kl" and DIVERGENCES[name] is not fitting):
        kind = type(output).__name__
        raise OptionError(
            f"divergence '{name}' does not fit an output layer of {kind}",
            hint="kl needs a sigmoid (two-class) or a softmax (multi-class) output layer",
        )
    return fitting()
