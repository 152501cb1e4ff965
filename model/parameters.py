"""All weights and biases as one flat vector, with named views on it.

The order is fixed: layer by layer, ``W_k`` then ``b_k``, each row-major. Gradients have the same
layout, so that adding, sending and hashing are operations on one contiguous vector.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from sumgrad.model.errors import ShapeError
from sumgrad.model.validation import Array, check_shape


@dataclass(frozen=True)
class ParamSpec:
    """The name, shape and offset of one array in the flat vector."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @cached_property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """The arrays of a network, in order."""

    #: ``(D_0, D_1, …)`` as pairs: for layer k, the width of its input and of its z.
    widths: tuple[tuple[int, int], ...]

    @cached_property
    def param_specs(self) -> tuple[ParamSpec, ...]:
        """``W1, b1, W2, b2, …``; ``W_k`` is (D_k, D_{k-1}), ``b_k`` is (D_k,)."""
        specs: list[ParamSpec] = []
        offset = 0
        for k, (inputs, outputs) in enumerate(self.widths, start=1):
            for name, shape in ((f"W{k}", (outputs, inputs)), (f"b{k}", (outputs,))):
                specs.append(ParamSpec(name, shape, offset))
                offset += math.prod(shape)
        return tuple(specs)

    @cached_property
    def size(self) -> int:
        """The number of elements in the flat vector."""
        return sum((inputs + 1) * outputs for inputs, outputs in self.widths)


class Parameters:
    """A flat vector, (size,), contiguous and not copied, and views on its arrays; or gradients.

    ``W[k-1]`` is layer k's weights, (D_k, D_{k-1}), and ``b[k-1]`` its bias, (D_k,). Pickling and
    copying transfer the flat vector and recreate the views.

    >>> p = Parameters.zeros(Layout(((3, 2), (2, 1))), np.float32)
    >>> p.flat.size, p["W1"].shape, p["b2"].shape
    (11, (2, 3), (1,))
    """

    def __init__(self, layout: Layout, flat: Array) -> None:
        check_shape("the parameter vector", flat, layout.size)
        if flat.dtype.kind != "f":
            raise ShapeError(f"the parameter vector is {flat.dtype}, expected float32 or float64")
        if not flat.flags.c_contiguous:
            # Reshaping would copy, and values written to a view would be lost.
            raise ShapeError("the parameter vector is not contiguous")
        self.layout = layout
        self.flat = flat
        views = [
            flat[spec.offset : spec.offset + spec.size].reshape(spec.shape)
            for spec in layout.param_specs
        ]
        self.W = tuple(views[0::2])
        self.b = tuple(views[1::2])

    @classmethod
    def zeros(cls, layout: Layout, dtype: DTypeLike) -> Self:
        """Allocate parameters that are all zero."""
        return cls(layout, np.zeros(layout.size, dtype=dtype))

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled separately, the views would be restored as independent arrays.
        return type(self), (self.layout, self.flat)

    def __getitem__(self, name: str) -> Array:
        return dict(self.items())[name]

    def items(self) -> list[tuple[str, Array]]:
        """Return names and views, in layout order."""
        views = chain.from_iterable(zip(self.W, self.b, strict=True))
        names = (spec.name for spec in self.layout.param_specs)
        return list(zip(names, views, strict=True))

    def sha256(self) -> str:
        """Return the SHA-256 of the flat vector's bytes, little-endian, as hexadecimal digits."""
        return weights_sha256(self.flat)


def weights_sha256(flat: Array) -> str:
    """Return the SHA-256 of a vector's bytes, little-endian, as hexadecimal digits."""
    little = np.ascontiguousarray(flat, dtype=flat.dtype.newbyteorder("<"))
    return hashlib.sha256(little.tobytes()).hexdigest()
