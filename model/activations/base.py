"""What an activation is: ``y = f(z)``, its Jacobian, and the product that back-propagation needs.

Row-major: ``z (B, D)`` holds B instances. The Jacobian of instance i is
``J[i, j, k] = ∂y_j/∂z_k``, and the backward recursion multiplies from the left:
``∇_z = ∇_y J``.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sumgrad.model.validation import Array


@dataclass(frozen=True)
class Activation(ABC):
    """An activation function with its derivative, stateless."""

    #: The initialiser that suits weights in front of it; see sumgrad.model.initializers.
    initializer: ClassVar[str] = "xavier_uniform"
    #: The range of y, where that matters for a divergence: 'distribution' or 'probability'.
    output: ClassVar[str] = "any"
    #: Whether `vjp` gives the same for y in z's place, so that y may be written over z. Holds for
    #: exactly the class that says so: one derived from it may need z.
    vjp_needs_only_output: ClassVar[bool] = False

    @abstractmethod
    def value(self, z: Array) -> Array:
        """``y = f(z)``: z (B, D) to y (B, D_out), in z's dtype."""

    @abstractmethod
    def jacobian(self, z: Array) -> Array:
        """The full Jacobian, (B, D_out, D): for proof and teaching."""

    @abstractmethod
    def vjp(self, z: Array, y: Array, d_y: Array) -> Array:
        """``∇_z = ∇_y J(z)`` without forming J.

        Args:
            z: (B, D).
            y: ``f(z)``, (B, D_out), from the forward recursion.
            d_y: ``∇_y``, (B, D_out).

        Returns:
            ``∇_z``, (B, D).
        """

    def value_into(self, z: Array, out: Array) -> None:
        """`value`, written to ``out`` (B, D_out), which may be z: the same bits, no allocation."""
        out[...] = self.value(z)

    def vjp_into(self, z: Array, y: Array, d_y: Array, out: Array) -> None:
        """`vjp`, written to ``out`` (B, D), which may be ``d_y``: the same bits, no allocation."""
        out[...] = self.vjp(z, y, d_y)

    def affine_width(self, units: int) -> int:
        """D, the width of z, of a layer that a user gave so many units."""
        return units

    def output_width(self, units: int) -> int:
        """D_out, the width of y, of a layer that a user gave so many units."""
        return units


@dataclass(frozen=True)
class ScalarActivation(Activation):
    """``y_j = f(z_j)`` for each component alone, so that the Jacobian is diagonal."""

    @abstractmethod
    def derivative(self, z: Array, y: Array) -> Array:
        """``f'(z)`` for each component, (B, D); ``y = f(z)`` is given as it often helps."""

    def jacobian(self, z: Array) -> Array:
        """``J = diag(f'(z))``, (B, D, D)."""
        slope = self.derivative(z, self.value(z))
        result: Array = slope[:, :, None] * np.eye(z.shape[1], dtype=z.dtype)
        return result

    def vjp(self, z: Array, y: Array, d_y: Array) -> Array:
        """``∇_z = ∇_y ∘ f'(z)``, (B, D)."""
        result: Array = d_y * self.derivative(z, y)
        return result

    def vjp_into(self, z: Array, y: Array, d_y: Array, out: Array) -> None:
        np.multiply(d_y, self.derivative(z, y), out=out)
