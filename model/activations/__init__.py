"""The registry of activations."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sumgrad.model.activations import scalar, vector
from sumgrad.model.activations.base import Activation, ScalarActivation
from sumgrad.model.registry import from_config

#: Every activation that a spec can name.
ACTIVATIONS: Mapping[str, type[Activation]] = MappingProxyType(
    {
        "absolute": scalar.Absolute,
        "elu": scalar.ELU,
        "gelu": scalar.GELU,
        "hard_sigmoid": scalar.HardSigmoid,
        "hard_tanh": scalar.HardTanh,
        "identity": scalar.Identity,
        "leaky_relu": scalar.LeakyReLU,
        "log_sigmoid": scalar.LogSigmoid,
        "max": vector.Max,
        "maxout": vector.Maxout,
        "mish": scalar.Mish,
        "relu": scalar.ReLU,
        "relu6": scalar.ReLU6,
        "selu": scalar.SELU,
        "sigmoid": scalar.Sigmoid,
        "silu": scalar.SiLU,
        "softmax": vector.Softmax,
        "softplus": scalar.Softplus,
        "softsign": scalar.Softsign,
        "tanh": scalar.Tanh,
    }
)

__all__ = ["ACTIVATIONS", "Activation", "ScalarActivation", "make_activation"]


def make_activation(config: str | Mapping[str, Any]) -> Activation:
    """Create the activation that a spec configures.

    >>> make_activation("relu")
    ReLU()
    >>> make_activation({"name": "maxout", "pieces": 3}).affine_width(10)
    30
    """
    return from_config("activation", ACTIVATIONS, config)
