"""Initial weights: their spread, their streams, and how they are chosen."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest

from sumgrad.model import (
    ACTIVATIONS,
    INITIALIZERS,
    Activation,
    Initializer,
    Layer,
    Network,
    OptionError,
    initial_parameters,
    make_activation,
    make_initializer,
)
from sumgrad.model.activations.scalar import SELU, Identity, LeakyReLU, ReLU, Sigmoid, Tanh
from sumgrad.model.activations.vector import Maxout, Softmax
from sumgrad.model.divergences import L2
from sumgrad.model.initializers import HeNormal, Normal, Zeros, default_initializer
from sumgrad.model.random_streams import RandomStream, Stream
from tests.model.oracles import Floats

FAN_OUT, FAN_IN = 300, 500

#: The variance that each source states, of fan_in and fan_out.
VARIANCES: Mapping[str, Callable[[int, int], float]] = {
    "he_normal": lambda fan_in, fan_out: 2 / fan_in,
    "he_uniform": lambda fan_in, fan_out: 2 / fan_in,
    "lecun_normal": lambda fan_in, fan_out: 1 / fan_in,
    "lecun_uniform": lambda fan_in, fan_out: 1 / fan_in,
    "normal": lambda fan_in, fan_out: 0.01**2,
    "xavier_normal": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "xavier_uniform": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "zeros": lambda fan_in, fan_out: 0.0,
}
SPREAD = sorted(set(VARIANCES) - {"zeros"})
SCALED = sorted(set(SPREAD) - {"normal"})

#: The bound of a uniform distribution as the sources state it.
BOUNDS: Mapping[str, float] = {
    "he_uniform": math.sqrt(6 / FAN_IN),
    "lecun_uniform": math.sqrt(3 / FAN_IN),
    "xavier_uniform": math.sqrt(6 / (FAN_IN + FAN_OUT)),
}


def draw(initializer: Initializer, seed: int = 0) -> Floats:
    return initializer.draw((FAN_OUT, FAN_IN), stream=RandomStream(seed, Stream.WEIGHTS))


def network_of(
    *units: int, activation: Activation | None = None, dtype: str = "float64"
) -> Network:
    """A network with 10 inputs."""
    layers = tuple(Layer(each, activation or Tanh()) for each in units)
    return Network(10, layers, L2(), dtype)


def check_spread(initializer: Initializer, variance: float, uniform: bool = False) -> None:
    """Mean, variance and fourth moment of 150 000 weights."""
    W = draw(initializer)
    deviation = math.sqrt(variance)
    assert W.shape == (FAN_OUT, FAN_IN)
    assert W.dtype == np.float64
    assert abs(W.mean()) < 4 * deviation / math.sqrt(W.size)
    assert W.var() == pytest.approx(variance, rel=0.02)
    fourth = 1.8 if uniform else 3.0
    assert (W**4).mean() == pytest.approx(fourth * variance**2, rel=0.05)


@dataclass(frozen=True)
class SwappedHe(HeNormal):
    """Takes W's rows for its columns."""

    def variance(self, fan_in: int, fan_out: int) -> float:
        return 2 / fan_out


def test_every_registered_initializer_has_a_case() -> None:
    assert set(VARIANCES) == set(INITIALIZERS)
    assert set(BOUNDS) == {name for name in INITIALIZERS if name.endswith("uniform")}
    options = {field.name for kind in INITIALIZERS.values() for field in fields(kind)}
    assert options == {"gain", "deviation"}


@pytest.mark.parametrize("name", SPREAD)
def test_spread_is_what_the_source_states(name: str) -> None:
    variance = VARIANCES[name](FAN_IN, FAN_OUT)
    check_spread(make_initializer(name), variance, uniform=name in BOUNDS)


def test_a_wrong_spread_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_spread(SwappedHe(), VARIANCES["he_normal"](FAN_IN, FAN_OUT))
    with pytest.raises(AssertionError):
        check_spread(make_initializer("he_uniform"), 1 / FAN_IN, uniform=True)
    with pytest.raises(AssertionError):
        check_spread(make_initializer("he_uniform"), 2 / FAN_IN)


@pytest.mark.parametrize("name", BOUNDS)
def test_uniform_weights_fill_their_bounds(name: str) -> None:
    W = np.abs(draw(make_initializer(name)))
    assert 0.999 * BOUNDS[name] < W.max() <= BOUNDS[name]


@pytest.mark.parametrize("name", SCALED)
def test_the_gain_scales_what_is_drawn(name: str) -> None:
    plain = draw(make_initializer(name))
    scaled = draw(make_initializer({"name": name, "gain": 3.0}))
    np.testing.assert_allclose(scaled, 3 * plain, rtol=1e-13, atol=1e-15)


def test_the_deviation_of_normal() -> None:
    check_spread(Normal(0.5), 0.25)


def test_zeros() -> None:
    assert not draw(Zeros()).any()


@pytest.mark.parametrize("name", INITIALIZERS)
def test_the_same_seed_draws_the_same(name: str) -> None:
    initializer = make_initializer(name)
    np.testing.assert_array_equal(draw(initializer, 1), draw(initializer, 1))
    assert name == "zeros" or (draw(initializer, 1) != draw(initializer, 2)).all()


def test_the_same_seed_gives_the_same_network() -> None:
    network = network_of(8, 6)
    first = initial_parameters(network, seed=3)
    assert first.sha256() == initial_parameters(network, seed=3).sha256()
    assert first.sha256() != initial_parameters(network, seed=4).sha256()


def test_the_first_weights_never_change() -> None:
    # Pinned: a job's result is the same bits only while its initial weights are.
    W = initial_parameters(network_of(2), seed=0).W[0]
    uniform = RandomStream(0, Stream.WEIGHTS, index=0).uniform((2, 10))
    np.testing.assert_allclose(W, (2 * uniform - 1) * math.sqrt(6 / 12), rtol=1e-14, atol=1e-16)


def test_biases_are_zero_and_weights_are_not() -> None:
    parameters = initial_parameters(network_of(8, 6), seed=0)
    assert not any(b.any() for b in parameters.b)
    assert all(W.all() for W in parameters.W)


def test_each_layer_has_a_stream_of_its_own() -> None:
    before = initial_parameters(network_of(20, 30, 30, 30), seed=0)
    after = initial_parameters(network_of(7, 30, 30, 30), seed=0)
    assert before.W[0].shape != after.W[0].shape
    np.testing.assert_array_equal(before.W[2], after.W[2])
    np.testing.assert_array_equal(before.W[3], after.W[3])
    assert (before.W[2] != before.W[3]).all()


def test_another_initializer_of_one_layer_leaves_the_others() -> None:
    network = network_of(8, 8, 8)
    plain = initial_parameters(network, seed=0)
    other = initial_parameters(network, [None, Zeros(), None], seed=0)
    assert not other.W[1].any()
    np.testing.assert_array_equal(plain.W[0], other.W[0])
    np.testing.assert_array_equal(plain.W[2], other.W[2])


@pytest.mark.parametrize("activation", [Tanh(), ReLU(), SELU(), Maxout()])
def test_float32_is_float64_rounded(activation: Activation) -> None:
    exact = initial_parameters(network_of(8, 6, activation=activation), seed=5)
    rough = initial_parameters(network_of(8, 6, activation=activation, dtype="float32"), seed=5)
    assert rough.flat.dtype == np.float32
    np.testing.assert_array_equal(rough.flat, exact.flat.astype(np.float32))
    assert (rough.W[0] != exact.W[0]).any()


#: What each activation chooses; the leaky ReLU, whose gain depends on its slope, apart.
CHOSEN: Mapping[str, list[str]] = {
    "he_normal": ["elu", "gelu", "max", "maxout", "mish", "relu", "relu6", "silu", "softplus"],
    "lecun_normal": ["selu"],
    "xavier_uniform": [
        "absolute",
        "hard_sigmoid",
        "hard_tanh",
        "identity",
        "log_sigmoid",
        "sigmoid",
        "softmax",
        "softsign",
        "tanh",
    ],
}


def test_every_activation_chooses_an_initializer() -> None:
    chosen = [activation for activations in CHOSEN.values() for activation in activations]
    assert sorted([*chosen, "leaky_relu"]) == sorted(ACTIVATIONS)


@pytest.mark.parametrize(
    ("activation", "name"),
    [(activation, name) for name, chosen in CHOSEN.items() for activation in chosen],
)
def test_the_activation_chooses(activation: str, name: str) -> None:
    layer = Layer(6, make_activation(activation))
    assert default_initializer(layer) == make_initializer(name)
    network = Network(4, (layer,), L2())
    stated = initial_parameters(network, [make_initializer(name)], seed=1)
    assert initial_parameters(network, seed=1).sha256() == stated.sha256()


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.3, 1.0])
def test_a_leaky_relu_lowers_the_gain(slope: float) -> None:
    initializer = default_initializer(Layer(3, LeakyReLU(slope)))
    assert isinstance(initializer, HeNormal)
    assert initializer.gain == pytest.approx(math.sqrt(1 / (1 + slope**2)), rel=1e-15)


def test_a_maxout_layer_is_drawn_for_its_affine_map() -> None:
    network = Network(400, (Layer(200, Maxout(3)), Layer(1, Identity())), L2(), "float64")
    W = initial_parameters(network, seed=0).W[0]
    assert W.shape == (600, 400)
    assert W.var() == pytest.approx(2 / 400, rel=0.02)


def test_initializers_for_another_number_of_layers_are_refused() -> None:
    with pytest.raises(OptionError, match="1 initializers for 2 layers"):
        initial_parameters(network_of(8, 6), [Zeros()], seed=0)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("he", "unknown initializer 'he'"),
        ({"name": "zeros", "gain": 1}, "has no option 'gain'"),
        ({"name": "he_normal", "gain": -1}, "gain is -1"),
        ({"name": "normal", "deviation": math.inf}, "deviation is inf"),
        ({"name": "normal", "deviation": None}, "deviation is None"),
    ],
)
def test_invalid_options_are_refused(named: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make_initializer(named)


def test_signals_keep_their_size_through_deep_networks() -> None:
    for activation in (ReLU(), SELU(), LeakyReLU(0.2)):
        layers = (Layer(300, activation),) * 10
        network = Network(300, layers, L2(), "float64")
        parameters = initial_parameters(network, seed=0)
        x = np.random.default_rng(0).standard_normal((50, 300))
        z = network.forward(parameters, x).z[-1]
        assert 0.3 < z.std() / network.forward(parameters, x).z[0].std() < 3


def test_outputs_of_a_sigmoid_and_a_softmax_layer_start_undecided() -> None:
    x = np.random.default_rng(0).standard_normal((50, 100))
    for activation, even in ((Sigmoid(), 0.5), (Softmax(), 0.1)):
        network = Network(100, (Layer(10, activation),), L2(), "float64")
        y = network.predict(initial_parameters(network, seed=0), x)
        assert y.mean() == pytest.approx(even, abs=0.05)
