"""The interface of activations: ``y = f(z)``, its Jacobian, and its vector-Jacobian product.

Row-major: ``z (B, D)`` holds B instances. The Jacobian of instance i is
``J[i, j, k] = ∂y_j/∂z_k``, and the backward recursion multiplies from the left:
``∇_z = ∇_y J``.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sumgrad.model.options import Options
from sumgrad.model.validation import Array


@dataclass(frozen=True)
class Activation(Options, ABC):
    """An activation function with its derivative; stateless."""

    initializer: ClassVar[str] = "xavier_uniform"  #: The default initializer of a layer's weights.
    #: The range of y: 'distribution' or 'probability' if a KL divergence accepts it, else 'any'.
    output_range: ClassVar[str] = "any"
    #: Whether `vjp` gives the same result with y passed as z, so that y may overwrite z. Not
    #: inherited: a subclass may need z.
    vjp_needs_only_output: ClassVar[bool] = False

    @abstractmethod
    def value(self, z: Array) -> Array:
        """Return ``y = f(z)``, (B, D_out), for z (B, D), in z's dtype."""

    @abstractmethod
    def jacobian(self, z: Array) -> Array:
        """Return the full Jacobian, (B, D_out, D); for proofs and teaching only."""

    @abstractmethod
    def vjp(self, z: Array, y: Array, d_y: Array) -> Array:
        """Return ``∇_z = ∇_y J(z)``, (B, D), without forming J; ``d_y = ∇_y`` is (B, D_out)."""

    def value_into(self, z: Array, out: Array) -> None:
        """Write `value` to ``out`` (B, D_out), which may be z; the bits are the same."""
        out[...] = self.value(z)

    def vjp_into(self, z: Array, y: Array, d_y: Array, out: Array) -> None:
        """Write `vjp` to ``out`` (B, D), which may be ``d_y``; the bits are the same."""
        out[...] = self.vjp(z, y, d_y)

    def affine_width(self, units: int) -> int:
        """Return D, the width of z, of a layer with ``units`` units."""
        return units

    def output_width(self, units: int) -> int:
        """Return D_out, the width of y, of a layer with ``units`` units."""
        return units


@dataclass(frozen=True)
class ScalarActivation(Activation):
    """An elementwise activation, ``y_j = f(z_j)``, whose Jacobian is diagonal."""

    @abstractmethod
    def derivative(self, z: Array, y: Array) -> Array:
        """Return ``f'(z)``, (B, D); ``y = f(z)`` is passed because it often saves work."""

    def jacobian(self, z: Array) -> Array:
        """Return ``J = diag(f'(z))``, (B, D, D)."""
        slope = self.derivative(z, self.value(z))
        return slope[:, :, None] * np.eye(z.shape[1], dtype=z.dtype)

    def vjp(self, z: Array, y: Array, d_y: Array) -> Array:
        """Return ``∇_z = ∇_y ∘ f'(z)``, (B, D)."""
        return d_y * self.derivative(z, y)

    def vjp_into(self, z: Array, y: Array, d_y: Array, out: Array) -> None:
        np.multiply(d_y, self.derivative(z, y), out=out)
