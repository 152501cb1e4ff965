"""For every registered name, what the tests make of it; and data that suits it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sumgrad.model import (
    Activation,
    Divergence,
    Layer,
    Network,
    Parameters,
    initial_parameters,
    make_activation,
)
from sumgrad.model.activations.vector import Maxout
from tests.model.oracles import Floats

#: Components of z in the tests of single activations.
WIDTH = 6

#: The options with which each registered activation is tested.
ACTIVATION_OPTIONS: Mapping[str, list[dict[str, Any]]] = {
    "absolute": [{}],
    "elu": [{}, {"alpha": 0.3}],
    "gelu": [{}],
    "hard_sigmoid": [{}],
    "hard_tanh": [{}],
    "identity": [{}],
    "leaky_relu": [{}, {"slope": 0.25}, {"slope": 0.0}, {"slope": 1.0}],
    "log_sigmoid": [{}],
    "max": [
        {},
        {"subsets": [[0, 1], [2, 3], [4, 5]]},
        {"subsets": [[0, 2, 4], [2, 5], [2]]},  # 2 in every subset; 1 and 3 in none
        {"subsets": [[5, 0], [0, 5]]},
    ],
    "maxout": [{}, {"pieces": 3}, {"pieces": 1}],
    "mish": [{}],
    "relu": [{}],
    "relu6": [{}],
    "selu": [{}],
    "sigmoid": [{}],
    "silu": [{}],
    "softmax": [{}],
    "softplus": [{}],
    "softsign": [{}],
    "tanh": [{}],
}


def label(name: str, options: Mapping[str, Any]) -> str:
    """A readable id of a case."""
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


#: Every activation with every choice of options.
ACTIVATION_CASES: Mapping[str, Activation] = {
    label(name, options): make_activation({"name": name, **options})
    for name, choices in ACTIVATION_OPTIONS.items()
    for options in choices
}

#: Where scalar activations have kinks; difference quotients keep away from them.
KINKS = (-3.0, -1.0, 0.0, 1.0, 3.0, 6.0)


def smooth_point(seed: int, shape: tuple[int, ...], scale: float = 3.0) -> Floats:
    """Random numbers in float64, none of them near a kink."""
    z = scale * np.random.default_rng(seed).standard_normal(shape)
    for kink in KINKS:
        z = np.where(np.abs(z - kink) < 1e-2, kink + 2e-2, z)
    return z


def units_for(activation: Activation) -> int:
    """Units of a layer whose affine map has `WIDTH` components."""
    return WIDTH // activation.pieces if isinstance(activation, Maxout) else WIDTH


def fits(divergence: Divergence, output: Activation) -> bool:
    """Whether the activation's outputs are what the divergence compares."""
    ranges = {
        "L2": output.output_range,
        "TwoClassKL": "probability",
        "MultiClassKL": "distribution",
    }
    return output.output_range == ranges[type(divergence).__name__]


def some_network(
    activations: list[Activation], divergence: Divergence, inputs: int = 5, dtype: str = "float64"
) -> Network:
    """A network with these activations from the first layer to the last."""
    layers = tuple(Layer(units_for(activation), activation) for activation in activations)
    return Network(inputs, layers, divergence, dtype)


def some_parameters(network: Network, seed: int) -> Parameters:
    """Weights of a fan-in scale and biases that are not 0, rounded to the network's dtype."""
    parameters = initial_parameters(network, seed=seed)
    generator = np.random.default_rng(seed)
    for b in parameters.b:
        b[...] = 0.5 * generator.standard_normal(b.shape)
    return parameters


def some_targets(divergence: Divergence, shape: tuple[int, int], seed: int) -> Floats:
    """Desired outputs, (B, D), that the divergence can take."""
    generator = np.random.default_rng(seed)
    if type(divergence).__name__ == "L2":
        return generator.standard_normal(shape)
    d = generator.uniform(0.05, 0.95, shape)
    return d / d.sum(axis=1, keepdims=True) if type(divergence).__name__ == "MultiClassKL" else d
