"""The network: forward recursion, backward recursion, and sums over instances.

Notation of the lecture, with batches of one instance a row:

    forward     y_0 = x
                z_k = W_k y_{k-1} + b_k        Z = Y Wᵀ + b
                y_k = f_k(z_k)
    backward    ∇_{y_L} = ∇_{y_L} Div(y_L, d)
                ∇_{z_k} = ∇_{y_k} J_{y_k}(z_k)
                ∇_{y_{k-1}} = ∇_{z_k} W_k
                ∇_{W_k} = (y_{k-1} ∇_{z_k})ᵀ    summed over the batch: ∇Zᵀ Y
                ∇_{b_k} = ∇_{z_k}

Intermediate arrays have shape (B, D), but each instance is a column in memory: ``Zᵀ (D, B)`` is
contiguous, and the product computed is ``Zᵀ = W Yᵀ``. For few rows BLAS computes it up to 1.7 times
as fast as ``Z = Y Wᵀ``, and reductions over an instance's components, as in softmax, vectorize over
instances.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sumgrad.model.activations.base import Activation
from sumgrad.model.divergences import Divergence, Targets
from sumgrad.model.errors import OptionError, ShapeError
from sumgrad.model.options import Options, PositiveInt
from sumgrad.model.parameters import Layout, Parameters
from sumgrad.model.validation import Array, as_float_array, check_dtype, check_shape


@dataclass(frozen=True)
class Layer(Options):
    """An affine map and an activation f_k."""

    units: PositiveInt  #: The layer's size, from 1; `Activation.affine_width` gives the width of z.
    activation: Activation


@dataclass(frozen=True)
class Cache:
    """The intermediate arrays of both recursions, which `Network.cache` allocates, for reuse."""

    z: list[Array]  #: ``z[k-1]`` is z_k, (B, D_k).
    y: list[Array]  #: ``y[k]`` is y_k; ``y[0]`` is x.
    d_z: list[Array]  #: ``d_z[k-1]`` is ∇_{z_k}, (B, D_k).
    d_y: list[Array]  #: ``d_y[k-1]`` is ∇_{y_k}, hidden layers only.

    def narrow(self, rows: int) -> "Cache":
        """Return a cache of ``rows`` rows in the same memory."""
        if rows == len(self.z[0]):
            return self
        z, y, d_z, d_y = (
            [_narrow(array, rows) for array in part]
            for part in (self.z, self.y[1:], self.d_z, self.d_y)
        )
        # Each use replaces y_0; it may be another layout, which could only be narrowed by a copy.
        return Cache(z, [self.y[0], *y], d_z, d_y)


def _narrow(array: Array, rows: int) -> Array:
    """Return (rows, D), each instance a column in memory, at the start of an array's memory."""
    width = array.shape[1]
    return array.T.reshape(-1)[: rows * width].reshape(width, rows).T


class GradientSum(NamedTuple):
    """Σ Div, and Σ ∇Div for every W and b, over ``count`` instances; not divided by it."""

    divergence: float
    gradients: Parameters
    count: int  # type: ignore[assignment]  # hides tuple.count


class EvaluationSum(NamedTuple):
    """Σ Div, and the number of correctly classified instances, over ``count`` instances."""

    divergence: float
    correct: int
    count: int  # type: ignore[assignment]  # hides tuple.count


@dataclass(frozen=True)
class Network(Options):
    """A feed-forward network and its divergence, without its parameters.

    Results depend on the values and shapes of the arguments only: neither the memory order of x and
    d nor passing `out` or `cache` changes a bit. Where an argument `out` or `cache` is None, arrays
    are newly allocated. Arrays that do not fit raise `ShapeError`.
    """

    inputs: PositiveInt  #: D_0, the number of features.
    layers: tuple[Layer, ...]  #: From the first hidden layer to the output layer.
    divergence: Divergence  #: The loss of an instance.
    dtype: str = "float32"  #: ``float32`` or ``float64``.

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "float64"):
            raise OptionError(f"dtype is '{self.dtype}', expected float32 or float64")
        super().__post_init__()
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise OptionError("a network needs at least one layer")
        # Raise here, not in the first step, if an activation does not accept its layer's units.
        _ = self.layout

    @cached_property
    def layout(self) -> Layout:
        """The position of every W and b in the flat vector."""
        widths: list[tuple[int, int]] = []
        inputs = self.inputs
        for layer in self.layers:
            widths.append((inputs, layer.activation.affine_width(layer.units)))
            inputs = layer.activation.output_width(layer.units)
        return Layout(tuple(widths))

    @property
    def outputs(self) -> int:
        """D_L, the width of y_L."""
        return self.layers[-1].activation.output_width(self.layers[-1].units)

    @property
    def fused(self) -> bool:
        """Whether the divergence and the last activation are fused."""
        # A subclass may have another value or derivative, so the class must match exactly.
        return type(self.layers[-1].activation) is self.divergence.fused

    def parameters(self, flat: Array) -> Parameters:
        """Return views on a flat vector of the network's size and dtype."""
        check_dtype("the parameter vector", flat, self.dtype)
        return Parameters(self.layout, flat)

    def _check_parameters(self, name: str, parameters: Parameters) -> None:
        """Raise unless parameters, or gradients, have this network's layout and dtype."""
        check_dtype(name, parameters.flat, self.dtype)
        if parameters.layout is not self.layout and parameters.layout != self.layout:
            raise ShapeError(f"{name} have another network's layout")

    def cache(self, rows: int, *, in_place: bool = False) -> Cache:
        """Allocate the intermediate arrays of B rows; each use sets ``y[0]`` to its x.

        With `in_place`, y_k overwrites z_k of the hidden layers, and ∇_{z_k} overwrites ∇_{y_k},
        where the activation allows it: less memory traffic, equal sums.
        """

        def empty(width: int) -> Array:
            # Each instance is a column in memory.
            return np.empty((width, rows), self.dtype).T

        cache = Cache(
            z=[empty(width) for _, width in self.layout.widths],
            y=[empty(0)],
            d_z=[empty(width) for _, width in self.layout.widths],
            d_y=[],
        )
        for k, layer in enumerate(self.layers[:-1]):
            width = layer.activation.output_width(layer.units)
            same_width = in_place and width == cache.z[k].shape[1]
            vjp_needs_only_output = vars(type(layer.activation)).get("vjp_needs_only_output", False)
            cache.y.append(cache.z[k] if same_width and vjp_needs_only_output else empty(width))
            cache.d_y.append(cache.d_z[k] if same_width else empty(width))
        cache.y.append(empty(self.outputs))
        return cache

    def forward(self, parameters: Parameters, x: Array, *, cache: Cache | None = None) -> Cache:
        """Compute every z_k and y_k for x (B, D_0), numbers of any kind."""
        self._check_parameters("the parameters", parameters)
        check_shape("x", x, None, self.inputs)
        cache = self.cache(len(x)) if cache is None else cache
        check_shape("the cache's z_1", cache.z[0], len(x), parameters.b[0].size)
        z, y = cache.z, cache.y
        y[0] = as_float_array("x", x, self.dtype)
        for k, (layer, W, b) in enumerate(
            zip(self.layers, parameters.W, parameters.b, strict=True)
        ):
            np.matmul(W, y[k].T, out=z[k].T)
            z[k] += b
            layer.activation.value_into(z[k], y[k + 1])
        return cache

    def predict(self, parameters: Parameters, x: Array) -> Array:
        """Return y_L for each row of x, (B, D_L)."""
        return self.forward(parameters, x).y[-1]

    def backward(
        self, parameters: Parameters, cache: Cache, d: Targets, *, out: Parameters | None = None
    ) -> Parameters:
        """Return ``Σ ∇_{W_k}`` and ``Σ ∇_{b_k}`` over the rows.

        The cache is the result of `forward`, d comes from `Divergence.targets`, and the gradients
        are written to ``out``, which must not share memory with the parameters.
        """
        gradients = Parameters.zeros(self.layout, self.dtype) if out is None else out
        self._check_parameters("the gradients", gradients)
        if np.may_share_memory(gradients.flat, parameters.flat):
            raise ShapeError("the gradients would overwrite the parameters")
        self._output_gradient(cache, d)
        for k in range(len(self.layers), 0, -1):
            d_z = cache.d_z[k - 1]
            np.matmul(d_z.T, cache.y[k - 1], out=gradients.W[k - 1])
            np.add.reduce(d_z, axis=0, out=gradients.b[k - 1])
            if k > 1:
                self._step_back(parameters, cache, k)
        return gradients

    def _output_gradient(self, cache: Cache, d: Targets) -> None:
        """Write ``∇_{z_L}``, (B, D_L), to the cache."""
        y = cache.y[-1]
        if self.fused:
            cache.d_z[-1][...] = self.divergence.fused_gradient(y, d)
        else:
            d_y = self.divergence.gradient(y, d)
            self.layers[-1].activation.vjp_into(cache.z[-1], y, d_y, cache.d_z[-1])

    def _step_back(self, parameters: Parameters, cache: Cache, k: int) -> None:
        """Compute ``∇_{y_{k-1}}`` and ``∇_{z_{k-1}}`` from ``∇_{z_k}``, in the cache."""
        d_y = cache.d_y[k - 2]
        np.matmul(parameters.W[k - 1].T, cache.d_z[k - 1].T, out=d_y.T)
        activation = self.layers[k - 2].activation
        activation.vjp_into(cache.z[k - 2], cache.y[k - 1], d_y, cache.d_z[k - 2])

    def _divergences(self, cache: Cache, d: Targets) -> Array:
        """Return Div of each instance, (B,)."""
        if self.fused:
            return self.divergence.fused_value(cache.z[-1], cache.y[-1], d)
        return self.divergence.value(cache.y[-1], d)

    def gradient_sum(
        self,
        parameters: Parameters,
        x: Array,
        d: Targets,
        *,
        out: Parameters | None = None,
        cache: Cache | None = None,
    ) -> GradientSum:
        """Return Σ Div, summed in float64, and Σ ∇Div over the rows of x: sums, never averages.

        Args:
            parameters: Every W and b.
            x: (B, D_0), numbers of any kind.
            d: Desired outputs, (B, D_L), or (B,) class indices for multi-class KL.
            out: The gradients to write to.
            cache: Arrays for B rows to write to.
        """
        cache = self.forward(parameters, x, cache=cache)
        targets = self.divergence.targets(d, cache.y[-1])
        gradients = self.backward(parameters, cache, targets, out=out)
        divergence = self._divergences(cache, targets).sum(dtype=np.float64)
        return GradientSum(float(divergence), gradients, len(x))

    def input_gradient(self, parameters: Parameters, x: Array, d: Targets) -> Array:
        """Return ``∇_{y_0} Div``, the derivative of Div by the input, (B, D_0)."""
        cache = self.forward(parameters, x)
        self._output_gradient(cache, self.divergence.targets(d, cache.y[-1]))
        for k in range(len(self.layers), 1, -1):
            self._step_back(parameters, cache, k)
        return cache.d_z[0] @ parameters.W[0]

    def divergences(self, parameters: Parameters, x: Array, d: Targets) -> Array:
        """Return Div of each instance, (B,)."""
        cache = self.forward(parameters, x)
        return self._divergences(cache, self.divergence.targets(d, cache.y[-1]))

    def evaluation_sum(
        self, parameters: Parameters, x: Array, d: Targets, *, cache: Cache | None = None
    ) -> EvaluationSum:
        """Return Σ Div and the number of correct rows; the arguments are those of gradient_sum."""
        cache = self.forward(parameters, x, cache=cache)
        targets = self.divergence.targets(d, cache.y[-1])
        divergence = self._divergences(cache, targets).sum(dtype=np.float64)
        correct = np.count_nonzero(predict_class(cache.y[-1]) == predict_class(targets))
        return EvaluationSum(float(divergence), int(correct), len(x))


def predict_class(y: Targets) -> NDArray[np.intp]:
    """Return the predicted class, (B,): the arg-max, or y ≥ ½ if D = 1; class indices are kept."""
    if y.ndim == 1:
        return y
    if y.shape[1] == 1:
        return (y[:, 0] >= 0.5).astype(np.intp)
    return y.argmax(axis=1)
