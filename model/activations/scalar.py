"""Scalar activations, each with its derivative; at a kink it is the subgradient stated."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sumgrad.model.activations.base import ScalarActivation
from sumgrad.model.options import Fraction, NonNegative
from sumgrad.model.validation import Array


def sigmoid(z: Array) -> Array:
    """Return ``σ(z) = 1/(1 + exp(−z))`` without overflow: only ``exp(−|z|)`` is computed."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, e) / (1 + e)


def softplus(z: Array) -> Array:
    """Return ``log(1 + exp(z))`` without overflow, as ``max(z, 0) + log(1 + exp(−|z|))``."""
    return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))


@dataclass(frozen=True)
class Identity(ScalarActivation):
    """``f(z) = z``."""

    vjp_needs_only_output: ClassVar[bool] = True

    def value(self, z: Array) -> Array:
        return z

    def derivative(self, z: Array, y: Array) -> Array:
        return np.ones_like(z)

    def vjp_into(self, z: Array, y: Array, d_y: Array, out: Array) -> None:
        out[...] = d_y


@dataclass(frozen=True)
class Sigmoid(ScalarActivation):
    """``f(z) = 1/(1 + exp(−z))``, ``f' = y(1 − y)``."""

    output_range: ClassVar[str] = "probability"
    vjp_needs_only_output: ClassVar[bool] = True

    def value(self, z: Array) -> Array:
        return sigmoid(z)

    def derivative(self, z: Array, y: Array) -> Array:
        return y * (1 - y)


@dataclass(frozen=True)
class Tanh(ScalarActivation):
    """``f(z) = tanh(z)``, ``f' = 1 − y²``."""

    vjp_needs_only_output: ClassVar[bool] = True

    def value(self, z: Array) -> Array:
        return np.tanh(z)

    def value_into(self, z: Array, out: Array) -> None:
        np.tanh(z, out=out)

    def derivative(self, z: Array, y: Array) -> Array:
        return 1 - y * y


@dataclass(frozen=True)
class ReLU(ScalarActivation):
    """``f(z) = max(z, 0)``; ``f' = 1`` where z > 0, else 0. Subgradient at 0: 0."""

    initializer: ClassVar[str] = "he_normal"
    vjp_needs_only_output: ClassVar[bool] = True

    def value(self, z: Array) -> Array:
        return np.maximum(z, 0)

    def value_into(self, z: Array, out: Array) -> None:
        np.maximum(z, 0, out=out)

    def derivative(self, z: Array, y: Array) -> Array:
        return (z > 0).astype(z.dtype)

    def vjp_into(self, z: Array, y: Array, d_y: Array, out: Array) -> None:
        # Multiplying by the mask itself saves a pass over memory; the bits are the same.
        np.multiply(d_y, z > 0, out=out)


@dataclass(frozen=True)
class LeakyReLU(ScalarActivation):
    """``f(z) = z`` where z > 0, else ``slope·z``. Subgradient at 0: ``slope``."""

    slope: Fraction = 0.01
    initializer: ClassVar[str] = "he_normal"

    def value(self, z: Array) -> Array:
        return np.where(z > 0, z, z * self.slope)

    def derivative(self, z: Array, y: Array) -> Array:
        return np.where(z > 0, 1, self.slope).astype(z.dtype)


@dataclass(frozen=True)
class ReLU6(ScalarActivation):
    """``f(z) = min(max(z, 0), 6)``; ``f' = 1`` inside (0, 6), else 0. Subgradient at 0 and 6: 0."""

    initializer: ClassVar[str] = "he_normal"

    def value(self, z: Array) -> Array:
        return np.clip(z, 0, 6)

    def derivative(self, z: Array, y: Array) -> Array:
        return ((z > 0) & (z < 6)).astype(z.dtype)


@dataclass(frozen=True)
class ELU(ScalarActivation):
    """``f(z) = z`` where z > 0, else ``α(exp(z) − 1)``. Subgradient at 0: ``α``."""

    alpha: NonNegative = 1.0
    initializer: ClassVar[str] = "he_normal"

    def value(self, z: Array) -> Array:
        return np.where(z > 0, z, self.alpha * np.expm1(np.minimum(z, 0)))

    def derivative(self, z: Array, y: Array) -> Array:
        return np.where(z > 0, 1, y + self.alpha).astype(z.dtype)


@dataclass(frozen=True)
class SELU(ScalarActivation):
    """``f(z) = λ·ELU_α(z)`` with Klambauer's α and λ. Subgradient at 0: ``λα``.

    Source: Klambauer et al., Self-Normalizing Neural Networks, 2017.
    """

    ALPHA: ClassVar[float] = 1.6732632423543772
    SCALE: ClassVar[float] = 1.0507009873554805
    initializer: ClassVar[str] = "lecun_normal"

    def value(self, z: Array) -> Array:
        return self.SCALE * np.where(z > 0, z, self.ALPHA * np.expm1(np.minimum(z, 0)))

    def derivative(self, z: Array, y: Array) -> Array:
        return np.where(z > 0, self.SCALE, y + self.SCALE * self.ALPHA).astype(z.dtype)


@dataclass(frozen=True)
class Softplus(ScalarActivation):
    """``f(z) = log(1 + exp(z))``, ``f' = σ(z)``: a smooth ReLU."""

    initializer: ClassVar[str] = "he_normal"

    def value(self, z: Array) -> Array:
        return softplus(z)

    def derivative(self, z: Array, y: Array) -> Array:
        return sigmoid(z)


@dataclass(frozen=True)
class Softsign(ScalarActivation):
    """``f(z) = z/(1 + |z|)``, ``f' = 1/(1 + |z|)²``."""

    def value(self, z: Array) -> Array:
        return z / (1 + np.abs(z))

    def derivative(self, z: Array, y: Array) -> Array:
        return np.square(1 / (1 + np.abs(z)))


@dataclass(frozen=True)
class LogSigmoid(ScalarActivation):
    """``f(z) = log σ(z)``, ``f' = σ(−z)``."""

    def value(self, z: Array) -> Array:
        return -softplus(-z)

    def derivative(self, z: Array, y: Array) -> Array:
        return sigmoid(-z)


@dataclass(frozen=True)
class SiLU(ScalarActivation):
    """``f(z) = z·σ(z)``, ``f' = σ(z) + f(z)(1 − σ(z))``; also called swish."""

    initializer: ClassVar[str] = "he_normal"

    def value(self, z: Array) -> Array:
        return z * sigmoid(z)

    def derivative(self, z: Array, y: Array) -> Array:
        s = sigmoid(z)
        return s + y * (1 - s)


@dataclass(frozen=True)
class Mish(ScalarActivation):
    """``f(z) = z·tanh(softplus(z))``, ``f' = t + z(1 − t²)σ(z)`` with ``t = tanh(softplus(z))``.

    Source: Misra, Mish: A Self Regularized Non-Monotonic Activation Function, 2019.
    """

    initializer: ClassVar[str] = "he_normal"

    def value(self, z: Array) -> Array:
        return z * np.tanh(softplus(z))

    def derivative(self, z: Array, y: Array) -> Array:
        t = np.tanh(softplus(z))
        return t + z * (1 - t * t) * sigmoid(z)


@dataclass(frozen=True)
class GELU(ScalarActivation):
    """``f(z) = ½z(1 + tanh u)``, ``u = √(2/π)·z(1 + 0.044715 z²)``: GELU in its tanh form.

    Source: Hendrycks and Gimpel, Gaussian Error Linear Units, 2016.
    """

    C: ClassVar[float] = math.sqrt(2 / math.pi)
    CUBIC: ClassVar[float] = 0.044715
    SATURATED: ClassVar[float] = 32.0  #: Beyond this |z|, tanh(u) is ±1; clipping keeps z³ finite.
    initializer: ClassVar[str] = "he_normal"

    def _tanh(self, z: Array) -> tuple[Array, Array]:
        inner = np.clip(z, -self.SATURATED, self.SATURATED)
        return np.tanh(self.C * inner * (1 + self.CUBIC * inner * inner)), inner

    def value(self, z: Array) -> Array:
        t, _ = self._tanh(z)
        return 0.5 * z * (1 + t)

    def derivative(self, z: Array, y: Array) -> Array:
        t, inner = self._tanh(z)
        d_u = self.C * (1 + 3 * self.CUBIC * inner * inner)
        return 0.5 * (1 + t) + 0.5 * inner * (1 - t * t) * d_u


@dataclass(frozen=True)
class HardTanh(ScalarActivation):
    """``f(z) = min(max(z, −1), 1)``; ``f' = 1`` inside (−1, 1), else 0. Subgradient at ±1: 0."""

    def value(self, z: Array) -> Array:
        return np.clip(z, -1, 1)

    def derivative(self, z: Array, y: Array) -> Array:
        return (np.abs(z) < 1).astype(z.dtype)


@dataclass(frozen=True)
class HardSigmoid(ScalarActivation):
    """``f(z) = min(max(z/6 + ½, 0), 1)``; ``f' = 1/6`` inside (−3, 3). Subgradient at ±3: 0."""

    def value(self, z: Array) -> Array:
        return np.clip(z / 6 + 0.5, 0, 1)

    def derivative(self, z: Array, y: Array) -> Array:
        return (np.abs(z) < 3).astype(z.dtype) / 6


@dataclass(frozen=True)
class Absolute(ScalarActivation):
    """``f(z) = |z|``, ``f' = sign(z)``. Subgradient at 0: 0."""

    def value(self, z: Array) -> Array:
        return np.abs(z)

    def derivative(self, z: Array, y: Array) -> Array:
        return np.sign(z)
