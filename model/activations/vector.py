"""Vector activations: every output may depend on every component of z.

Each has a full Jacobian and a vjp that never forms it; tests prove that the two agree.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sumgrad.model.activations.base import Activation
from sumgrad.model.errors import OptionError, ShapeError
from sumgrad.model.options import PositiveInt
from sumgrad.model.validation import Array


@dataclass(frozen=True)
class Softmax(Activation):
    """``y_j = exp(z_j) / Σ_k exp(z_k)``; ``J_jk = y_j(δ_jk − y_k)``.

    The largest z of each instance is subtracted first, which only prevents overflow.
    """

    output_range: ClassVar[str] = "distribution"

    def value(self, z: Array) -> Array:
        y = np.empty_like(z)
        self.value_into(z, y)
        return y

    def value_into(self, z: Array, out: Array) -> None:
        np.subtract(z, z.max(axis=1, keepdims=True), out=out)
        np.exp(out, out=out)
        out /= out.sum(axis=1, keepdims=True)

    def jacobian(self, z: Array) -> Array:
        y = self.value(z)
        diagonal = y[:, :, None] * np.eye(z.shape[1], dtype=z.dtype)
        return diagonal - y[:, :, None] * y[:, None, :]

    def vjp(self, z: Array, y: Array, d_y: Array) -> Array:
        """Return ``∇_z = y ∘ (∇_y − ⟨∇_y, y⟩)``."""
        return y * (d_y - np.sum(d_y * y, axis=1, keepdims=True))


@dataclass(frozen=True)
class Max(Activation):
    """``y_j = max_{k ∈ S_j} z_k``: the maxima of subsets of z's components.

    A component may belong to several subsets or to none. Subgradient on ties: 1 for the first
    index of the subset, 0 elsewhere, as in the lecture.
    """

    #: Component indices, from 0, for each output; () means a single output over all components.
    subsets: tuple[tuple[int, ...], ...] = ()
    initializer: ClassVar[str] = "he_normal"

    def __post_init__(self) -> None:
        # Specs contain lists; tuples are hashable and cannot be changed.
        object.__setattr__(self, "subsets", as_subsets(self.subsets))

    def affine_width(self, units: int) -> int:
        highest = max((k for subset in self.subsets for k in subset), default=0)
        if highest >= units:
            raise OptionError(f"max: subset index {highest}, but the layer has {units} units")
        return units

    def output_width(self, units: int) -> int:
        return len(self.subsets) or 1

    @cached_property
    def _padded_subsets(self) -> NDArray[np.intp]:
        """The subsets as (D_out, longest); short ones repeat their first index.

        The arg-max takes the first of equal values, so a repetition never wins.
        """
        longest = max(len(subset) for subset in self.subsets)
        padded = [subset + subset[:1] * (longest - len(subset)) for subset in self.subsets]
        return np.array(padded, dtype=np.intp)

    def argmax(self, z: Array) -> NDArray[np.intp]:
        """Return the component that is the maximum of each subset, (B, D_out)."""
        if not self.subsets:
            return z.argmax(axis=1)[:, None]
        subsets = self._padded_subsets
        chosen = z[:, subsets].argmax(axis=2)
        return subsets[np.arange(len(subsets)), chosen]

    def value(self, z: Array) -> Array:
        return np.take_along_axis(z, self.argmax(z), axis=1)

    def jacobian(self, z: Array) -> Array:
        chosen = self.argmax(z)[:, :, None] == np.arange(z.shape[1])
        return chosen.astype(z.dtype)

    def vjp(self, z: Array, y: Array, d_y: Array) -> Array:
        """Add each ``∇_y`` to its arg-max component."""
        d_z = np.zeros_like(z)
        rows = np.arange(len(z))[:, None]
        np.add.at(d_z, (rows, self.argmax(z)), d_y)
        return d_z


@dataclass(frozen=True)
class Maxout(Activation):
    """``y_j = max`` over the ``pieces`` components of z that belong to unit j.

    The affine map of a layer of n units has ``n·pieces`` components, so that each unit learns a
    convex piecewise linear function. Component ``j·pieces + p`` is piece p of unit j. Subgradient
    on ties: 1 for the first piece, 0 elsewhere.

    Source: Goodfellow et al., Maxout Networks, 2013.
    """

    pieces: PositiveInt = 2
    initializer: ClassVar[str] = "he_normal"

    def affine_width(self, units: int) -> int:
        return units * self.pieces

    def _pieces(self, z: Array) -> Array:
        if z.shape[1] % self.pieces:
            raise ShapeError(f"maxout: z has {z.shape[1]} columns, no multiple of {self.pieces}")
        # The width is computed because NumPy cannot infer -1 for an empty batch.
        return z.reshape(len(z), z.shape[1] // self.pieces, self.pieces)

    def value(self, z: Array) -> Array:
        return self._pieces(z).max(axis=2)

    def _chosen(self, z: Array) -> NDArray[np.bool_]:
        """Return the mask of each unit's maximum, (B, D_out, pieces)."""
        first = self._pieces(z).argmax(axis=2)
        return first[:, :, None] == np.arange(self.pieces)

    def jacobian(self, z: Array) -> Array:
        chosen = self._chosen(z)
        batch, units, _ = chosen.shape
        same_unit = np.eye(units, dtype=z.dtype)[None, :, :, None]
        return (same_unit * chosen[:, :, None, :]).reshape(batch, units, z.shape[1])

    def vjp(self, z: Array, y: Array, d_y: Array) -> Array:
        return (d_y[:, :, None] * self._chosen(z)).reshape(z.shape)


def as_subsets(rows: object) -> tuple[tuple[int, ...], ...]:
    """Return the value of `Max.subsets`, a list of non-empty lists of indices, as tuples."""
    if not isinstance(rows, list | tuple) or not all(isinstance(s, list | tuple) for s in rows):
        raise OptionError(f"max: subsets is {rows!r}, expected a list of lists of indices")
    for subset in rows:
        if not subset or not all(type(k) is int and k >= 0 for k in subset):
            raise OptionError(f"max: subset {list(subset)} is not a list of indices from 0")
    return tuple(tuple(subset) for subset in rows)
