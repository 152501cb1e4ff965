"""The registry of activations."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sumgrad.model.activations.base import Activation, ScalarActivation
from sumgrad.model.activations.scalar import (
    ELU,
    GELU,
    SELU,
    Absolute,
    HardSigmoid,
    HardTanh,
    Identity,
    LeakyReLU,
    LogSigmoid,
    Mish,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softplus,
    Softsign,
    Tanh,
)
from sumgrad.model.activations.vector import Max, Maxout, Softmax
from sumgrad.model.registry import from_config

#: Every activation that a spec can name.
ACTIVATIONS: Mapping[str, type[Activation]] = MappingProxyType(
    {
        "absolute": Absolute,
        "elu": ELU,
        "gelu": GELU,
        "hard_sigmoid": HardSigmoid,
        "hard_tanh": HardTanh,
        "identity": Identity,
        "leaky_relu": LeakyReLU,
        "log_sigmoid": LogSigmoid,
        "max": Max,
        "maxout": Maxout,
        "mish": Mish,
        "relu": ReLU,
        "relu6": ReLU6,
        "selu": SELU,
        "sigmoid": Sigmoid,
        "silu": SiLU,
        "softmax": Softmax,
        "softplus": Softplus,
        "softsign": Softsign,
        "tanh": Tanh,
    }
)

__all__ = ["ACTIVATIONS", "Activation", "ScalarActivation", "make_activation"]


def make_activation(named: str | Mapping[str, Any]) -> Activation:
    """Create the activation that a spec configures.

    >>> make_activation("relu")
    ReLU()
    >>> make_activation({"name": "maxout", "pieces": 3}).affine_width(10)
    30

    Raises:
        OptionError: An unknown name or option.
    """
    return from_config("activation", ACTIVATIONS, named)
