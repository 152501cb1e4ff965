"""Initial weights, drawn from the random streams of a seed; biases start at 0.

``fan_in`` and ``fan_out`` are W's columns and rows. Numbers are drawn in float64 and then rounded,
so that float32 and float64 jobs start from the same weights up to rounding.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from sumgrad.model.activations.scalar import LeakyReLU
from sumgrad.model.errors import OptionError
from sumgrad.model.network import Layer, Network
from sumgrad.model.options import NonNegative, Options
from sumgrad.model.parameters import Parameters
from sumgrad.model.random_streams import RandomStream, Stream
from sumgrad.model.registry import from_config
from sumgrad.model.validation import Array


@dataclass(frozen=True)
class Initializer(Options, ABC):
    """A distribution of initial weights."""

    @abstractmethod
    def draw(self, shape: tuple[int, ...], *, stream: RandomStream) -> Array:
        """Draw W of shape (fan_out, fan_in), float64."""


@dataclass(frozen=True)
class _Scaled(Initializer):
    """A distribution of mean 0 and standard deviation ``gain·√variance``."""

    gain: NonNegative = 1.0

    @abstractmethod
    def variance(self, fan_in: int, fan_out: int) -> float:
        """Return the variance of each weight, before the gain."""

    def deviation(self, shape: tuple[int, ...]) -> float:
        """Return the standard deviation of W of shape (fan_out, fan_in)."""
        fan_out, fan_in = shape
        return self.gain * math.sqrt(self.variance(fan_in, fan_out))

    def draw(self, shape: tuple[int, ...], *, stream: RandomStream) -> Array:
        """Draw normal numbers."""
        return self.deviation(shape) * stream.normal(shape)


@dataclass(frozen=True)
class _Uniform(_Scaled):
    """The uniform distribution of the same deviation."""

    def draw(self, shape: tuple[int, ...], *, stream: RandomStream) -> Array:
        limit = self.deviation(shape) * math.sqrt(3)
        return limit * (2 * stream.uniform(shape) - 1)


@dataclass(frozen=True)
class XavierNormal(_Scaled):
    """Normal with deviation ``√(2/(fan_in + fan_out))``. Source: Glorot and Bengio, 2010."""

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 2 / (fan_in + fan_out)


@dataclass(frozen=True)
class XavierUniform(_Uniform, XavierNormal):
    """Uniform in ``±√(6/(fan_in + fan_out))``."""


@dataclass(frozen=True)
class HeNormal(_Scaled):
    """Normal with deviation ``√(2/fan_in)``. Source: He et al., Delving Deep, 2015."""

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 2 / fan_in


@dataclass(frozen=True)
class HeUniform(_Uniform, HeNormal):
    """Uniform in ``±√(6/fan_in)``."""


@dataclass(frozen=True)
class LeCunNormal(_Scaled):
    """Normal with deviation ``√(1/fan_in)``. Source: LeCun et al., Efficient BackProp, 1998."""

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 1 / fan_in


@dataclass(frozen=True)
class LeCunUniform(_Uniform, LeCunNormal):
    """Uniform in ``±√(3/fan_in)``."""


@dataclass(frozen=True)
class Normal(Initializer):
    """Normal with a fixed standard deviation."""

    deviation: NonNegative = 0.01

    def draw(self, shape: tuple[int, ...], *, stream: RandomStream) -> Array:
        return self.deviation * stream.normal(shape)


@dataclass(frozen=True)
class Zeros(Initializer):
    """All 0: for a single layer, whose loss is convex; deeper networks cannot learn from it."""

    def draw(self, shape: tuple[int, ...], *, stream: RandomStream) -> Array:
        return np.zeros(shape)


#: Every initializer that a spec can name.
INITIALIZERS: Mapping[str, type[Initializer]] = MappingProxyType(
    {
        "he_normal": HeNormal,
        "he_uniform": HeUniform,
        "lecun_normal": LeCunNormal,
        "lecun_uniform": LeCunUniform,
        "normal": Normal,
        "xavier_normal": XavierNormal,
        "xavier_uniform": XavierUniform,
        "zeros": Zeros,
    }
)


def make_initializer(config: str | Mapping[str, Any]) -> Initializer:
    """Create the initializer that a spec configures."""
    return from_config("initializer", INITIALIZERS, config)


def default_initializer(layer: Layer) -> Initializer:
    """Return the default of the layer's activation; for a leaky ReLU the gain depends on its slope.

    >>> from sumgrad.model.activations import make_activation
    >>> default_initializer(Layer(10, make_activation("relu")))
    HeNormal(gain=1.0)
    """
    if isinstance(layer.activation, LeakyReLU):
        return HeNormal(gain=1 / math.sqrt(1 + layer.activation.slope**2))
    return make_initializer(layer.activation.initializer)


def initial_parameters(
    network: Network, initializers: Sequence[Initializer | None] = (), *, seed: int
) -> Parameters:
    """Draw the initial weights; each layer has its own random stream.

    ``initializers`` has one for each layer, or None for the default of its activation.
    """
    choices = tuple(initializers) or (None,) * len(network.layers)
    if len(choices) != len(network.layers):
        raise OptionError(f"{len(choices)} initializers for {len(network.layers)} layers")
    parameters = Parameters.zeros(network.layout, network.dtype)
    for k, (layer, choice) in enumerate(zip(network.layers, choices, strict=True)):
        W = parameters.W[k]
        stream = RandomStream(seed, Stream.WEIGHTS, index=k)
        W[...] = (choice or default_initializer(layer)).draw(W.shape, stream=stream)
    return parameters
