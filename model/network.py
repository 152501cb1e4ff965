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

What is between x and the gradients, (B, D) for the reader, lies in memory as the lecture's column
vectors: ``Zᵀ (D, B)`` is contiguous, and the product that is made is ``Zᵀ = W Yᵀ``. For few rows
BLAS does that up to 1.7 times as fast as ``Z = Y Wᵀ``, and what goes over an instance's components,
as softmax does, goes down columns.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sumgrad.model.activations.base import Activation
from sumgrad.model.divergences import Divergence, Targets
from sumgrad.model.errors import OptionError, ShapeError
from sumgrad.model.parameters import Layout, Parameters
from sumgrad.model.registry import validate_positive_int
from sumgrad.model.validation import Array, as_float_array, check_dtype, check_shape


@dataclass(frozen=True)
class Layer:
    """An affine map and an activation.

    Args:
        units: What a user calls the layer's size; see `Activation.affine_width`.
        activation: f_k.

    Raises:
        OptionError: Units that are no whole number from 1.
    """

    units: int
    activation: Activation

    def __post_init__(self) -> None:
        validate_positive_int("layer", self, "units")


@dataclass(frozen=True)
class Cache:
    """What the forward recursion leaves for the backward one, and what that one writes.

    Its arrays can be used again: `Network.cache` makes them, `first` takes them for fewer rows.

    Attributes:
        z: ``z[k-1]`` is z_k, (B, D_k).
        y: ``y[k]`` is y_k; ``y[0]`` is x.
        d_z: ``d_z[k-1]`` is ∇_{z_k}, (B, D_k).
        d_y: ``d_y[k-1]`` is ∇_{y_k}, for the hidden layers.
    """

    z: list[Array]
    y: list[Array]
    d_z: list[Array]
    d_y: list[Array]

    def narrow(self, rows: int) -> "Cache":
        """The same memory for fewer rows."""
        if rows == len(self.z[0]):
            return self
        parts = (self.z, self.y, self.d_z, self.d_y)
        return Cache(*([_first(array, rows) for array in part] for part in parts))


def _columns(rows: int, width: int, dtype: str) -> Array:
    """(B, D), each instance a column in memory."""
    return np.empty((width, rows), dtype).T


def _first(array: Array, rows: int) -> Array:
    """The beginning of the memory of `_columns`, as it would be made for fewer rows."""
    width = array.shape[1]
    return array.T.reshape(-1)[: rows * width].reshape(width, rows).T


class GradientSum(NamedTuple):
    """Sums over instances; never an average.

    Attributes:
        divergence: Σ Div.
        gradients: Σ ∇Div for every W and b, in the parameters' layout.
        count: How many instances were summed.
    """

    divergence: float
    gradients: Parameters
    count: int  # type: ignore[assignment]  # the contract's name; it hides tuple.count


class EvaluationSum(NamedTuple):
    """Sums over instances, forward only.

    Attributes:
        divergence: Σ Div.
        correct: How many instances were put into the right class.
        count: How many instances were summed.
    """

    divergence: float
    correct: int
    count: int  # type: ignore[assignment]  # as above


@dataclass(frozen=True)
class Network:
    """A feed-forward network and its divergence. Parameters live outside of it.

    Its results are a pure function of the values and shapes of what it is given: the memory order
    of x and d, and whether `out` or `cache` is given, never change a bit.

    Args:
        inputs: D_0, the features of an instance.
        layers: From the first hidden layer to the output layer.
        divergence: What is to become small.
        dtype: ``float32`` or ``float64``.

    Raises:
        OptionError: Sizes or a dtype that do not fit.
    """

    inputs: int
    layers: tuple[Layer, ...]
    divergence: Divergence
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "float64"):
            raise OptionError(f"dtype is '{self.dtype}', expected float32 or float64")
        validate_positive_int("network", self, "inputs")
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise OptionError("a network needs at least one layer")
        # An activation that the units do not suit is refused here, not in the first step.
        _ = self.layout

    @cached_property
    def layout(self) -> Layout:
        """Every W and b and its place in the flat vector."""
        widths: list[tuple[int, int]] = []
        before = self.inputs
        for layer in self.layers:
            widths.append((before, layer.activation.affine_width(layer.units)))
            before = layer.activation.output_width(layer.units)
        return Layout(tuple(widths))

    @property
    def outputs(self) -> int:
        """D_L, the components of y_L."""
        return self.layers[-1].activation.output_width(self.layers[-1].units)

    @property
    def fused(self) -> bool:
        """Whether divergence and last activation take the stable fused path."""
        # Exactly that class: one derived from it may have another value or derivative.
        return type(self.layers[-1].activation) is self.divergence.fused

    def parameters(self, flat: Array) -> Parameters:
        """Views on a flat vector.

        Raises:
            ShapeError: A vector of another size or dtype.
        """
        check_dtype("the parameter vector", flat, self.dtype)
        return Parameters(self.layout, flat)

    def _expect_fitting(self, name: str, parameters: Parameters) -> None:
        """Raise unless parameters, or gradients, have this network's layout and dtype."""
        check_dtype(name, parameters.flat, self.dtype)
        if parameters.layout is not self.layout and parameters.layout != self.layout:
            raise ShapeError(f"{name} have another network's layout")

    def cache(self, rows: int, *, in_place: bool = False) -> Cache:
        """Arrays for the recursions over so many rows; ``y[0]`` is x's place, set by each use.

        Args:
            rows: B.
            in_place: Let y_k be written over z_k of the hidden layers, and ∇_{z_k} over ∇_{y_k},
                wherever the activation allows it: less memory to go through, and the same sums.
        """

        def empty(width: int) -> Array:
            return _columns(rows, width, self.dtype)

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
        """The forward recursion.

        Args:
            parameters: Every W and b.
            x: (B, D_0), numbers; brought to the network's dtype.
            cache: Arrays to write to, of `cache` for B rows; newly allocated by default.

        Raises:
            ShapeError: x has another width or holds no numbers, or the parameters are not of this
                network's layout and dtype.
        """
        self._expect_fitting("the parameters", parameters)
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
        """y_L for each row of x, (B, D_L)."""
        return self.forward(parameters, x).y[-1]

    def backward(
        self, parameters: Parameters, cache: Cache, d: Targets, *, out: Parameters | None = None
    ) -> Parameters:
        """The backward recursion, down to the weights.

        Args:
            parameters: Every W and b.
            cache: Of the forward recursion.
            d: The desired outputs as `Divergence.targets` gives them.
            out: Where to write; newly allocated by default.

        Returns:
            ``Σ ∇_{W_k}`` and ``Σ ∇_{b_k}`` over the rows.

        Raises:
            ShapeError: ``out`` is not of this network's layout and dtype, or is the parameters.
        """
        gradients = Parameters.zeros(self.layout, self.dtype) if out is None else out
        self._expect_fitting("the gradients", gradients)
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
        """``∇_{z_L}``, (B, D_L), into the cache."""
        y = cache.y[-1]
        if self.fused:
            cache.d_z[-1][...] = self.divergence.fused_gradient(y, d)
        else:
            d_y = self.divergence.gradient(y, d)
            self.layers[-1].activation.vjp_into(cache.z[-1], y, d_y, cache.d_z[-1])

    def _step_back(self, parameters: Parameters, cache: Cache, k: int) -> None:
        """From ``∇_{z_k}`` to ``∇_{y_{k-1}}`` and ``∇_{z_{k-1}}``, both in the cache."""
        d_y = cache.d_y[k - 2]
        np.matmul(parameters.W[k - 1].T, cache.d_z[k - 1].T, out=d_y.T)
        activation = self.layers[k - 2].activation
        activation.vjp_into(cache.z[k - 2], cache.y[k - 1], d_y, cache.d_z[k - 2])

    def _divergences(self, cache: Cache, d: Targets) -> Array:
        """Div of each instance, (B,)."""
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
        """Σ Div and Σ ∇Div over the rows of x: sums, never averages.

        Args:
            parameters: Every W and b.
            x: (B, D_0), numbers; brought to the network's dtype.
            d: Desired outputs, (B, D_L), or (B,) class indices for multi-class KL.
            out: Where to write the gradients; newly allocated by default.
            cache: Arrays of `cache` for B rows, to be written to; newly allocated by default.

        Returns:
            Divergence (added up in float64), gradients, and the count B.

        Raises:
            ShapeError: x or d do not fit the network or each other.
        """
        cache = self.forward(parameters, x, cache=cache)
        targets = self.divergence.targets(d, cache.y[-1])
        gradients = self.backward(parameters, cache, targets, out=out)
        divergence = self._divergences(cache, targets).sum(dtype=np.float64)
        return GradientSum(float(divergence), gradients, len(x))

    def input_gradient(self, parameters: Parameters, x: Array, d: Targets) -> Array:
        """``∇_{y_0} Div``, the derivative of each instance's divergence by its input, (B, D_0)."""
        cache = self.forward(parameters, x)
        self._output_gradient(cache, self.divergence.targets(d, cache.y[-1]))
        for k in range(len(self.layers), 1, -1):
            self._step_back(parameters, cache, k)
        result: Array = cache.d_z[0] @ parameters.W[0]
        return result

    def divergences(self, parameters: Parameters, x: Array, d: Targets) -> Array:
        """Div of each instance, (B,)."""
        cache = self.forward(parameters, x)
        return self._divergences(cache, self.divergence.targets(d, cache.y[-1]))

    def evaluation_sum(
        self, parameters: Parameters, x: Array, d: Targets, *, cache: Cache | None = None
    ) -> EvaluationSum:
        """Σ Div and the count of right answers over the rows of x; arguments as gradient_sum's."""
        cache = self.forward(parameters, x, cache=cache)
        targets = self.divergence.targets(d, cache.y[-1])
        divergence = self._divergences(cache, targets).sum(dtype=np.float64)
        hits = np.count_nonzero(predict_class(cache.y[-1]) == predict_class(targets))
        return EvaluationSum(float(divergence), int(hits), len(x))


def predict_class(y: Targets) -> NDArray[np.intp]:
    """The class that outputs stand for, (B,): the largest component, or with one, whether y ≥ ½.

    Class indices stand for themselves.
    """
    if y.ndim == 1:
        return y
    if y.shape[1] == 1:
        return (y[:, 0] >= 0.5).astype(np.intp)
    winner: NDArray[np.intp] = y.argmax(axis=1)
    return winner
