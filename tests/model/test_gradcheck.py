"""The gradient check passes right gradients of every kind, and catches wrong ones."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from model.activations import ACTIVATIONS, make_activation
from model.activations.base import Activation
from model.activations.scalar import ReLU, Tanh
from model.checks import Array
from model.divergences import L2, Divergence, MultiClassKL, TwoClassKL
from model.gradcheck import GradientCheck, check_gradients
from model.initializers import initial_parameters
from model.network import Layer, Network

ROWS = 6


def run(
    hidden: Activation, output: Activation, divergence: Divergence, units: int = 3
) -> tuple[GradientCheck, ...]:
    """Check a network 5-4-units with random targets."""
    network = Network(5, (Layer(4, hidden), Layer(units, output)), divergence)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((ROWS, 5))
    outputs = network.outputs
    d = generator.dirichlet(np.ones(outputs), ROWS) if outputs > 1 else generator.random((ROWS, 1))
    return check_gradients(network, initial_parameters(network, seed=2), x, d, seed=0)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_activation_passes_within_a_network(name: str) -> None:
    checks = run(make_activation(name), Tanh(), L2())
    assert all(check.ok for check in checks), checks
    assert [check.name for check in checks] == ["W1", "b1", "W2", "b2", "x"]
    assert [check.layer for check in checks] == [1, 1, 2, 2, 0]


@pytest.mark.parametrize(
    ("output", "divergence"),
    [("sigmoid", TwoClassKL()), ("softmax", MultiClassKL()), ("softmax", L2()), ("sigmoid", L2())],
)
def test_every_divergence_passes(output: str, divergence: Divergence) -> None:
    units = 1 if isinstance(divergence, TwoClassKL) else 3
    assert all(check.ok for check in run(Tanh(), make_activation(output), divergence, units))


def test_small_arrays_are_probed_entry_by_entry() -> None:
    checks = run(Tanh(), Tanh(), L2())
    assert [check.entries for check in checks] == [20, 4, 12, 3, 20]


def test_large_sums_do_not_look_wrong() -> None:
    network = Network(5, (Layer(8, Tanh()), Layer(1, make_activation("identity"))), L2())
    x = np.random.default_rng(1).standard_normal((ROWS, 5))
    parameters = initial_parameters(network, seed=0)
    checks = check_gradients(network, parameters, x, np.full((ROWS, 1), 1e6), seed=0)
    assert all(check.ok for check in checks), checks


@dataclass(frozen=True)
class WrongTanh(Tanh):
    """A derivative that is off by a factor of 1 + 1e-4."""

    def derivative(self, z: Array, y: Array) -> Array:
        return (1 - y * y) * (1 + 1e-4)


@dataclass(frozen=True)
class WrongInOnePlace(Tanh):
    """Wrong only for larger z."""

    def derivative(self, z: Array, y: Array) -> Array:
        return np.where(z > 0.3, 0.9, 1.0) * (1 - y * y)


@dataclass(frozen=True)
class AverageL2(L2):
    """thinc's mistake: a gradient that is not the derivative of the value."""

    def gradient(self, y: Array, d: Array) -> Array:
        return 2 * (y - d)


@dataclass(frozen=True)
class UnfusedSoftmaxKL(MultiClassKL):
    """Forgets to subtract the target."""

    def fused_gradient(self, y: Array, d: Array) -> Array:
        return y


@dataclass(frozen=True)
class NotANumber(Tanh):
    """A gradient that is NaN must not pass for a small error."""

    def derivative(self, z: Array, y: Array) -> Array:
        return np.full_like(z, np.nan)


def names_of_wrong(checks: tuple[GradientCheck, ...]) -> set[str]:
    return {check.name for check in checks if not check.ok}


@pytest.mark.parametrize("wrong", [WrongTanh(), WrongInOnePlace(), NotANumber()])
def test_mutation_a_wrong_derivative_is_caught_in_the_layer_below(wrong: Activation) -> None:
    found = names_of_wrong(run(wrong, Tanh(), L2()))
    assert {"W1", "x"} <= found
    assert not found & {"W2", "b2"}


@pytest.mark.parametrize(
    ("output", "divergence"), [("tanh", AverageL2()), ("softmax", UnfusedSoftmaxKL())]
)
def test_mutation_a_wrong_divergence_is_caught_everywhere(
    output: str, divergence: Divergence
) -> None:
    found = names_of_wrong(run(Tanh(), make_activation(output), divergence))
    assert found == {"W1", "b1", "W2", "b2", "x"}


def test_a_probe_at_a_kink_is_made_again_nearby() -> None:
    """Every z_1 is exactly 0, so that there is no derivative at the point itself."""
    network = Network(2, (Layer(3, ReLU()), Layer(1, make_activation("identity"))), L2())
    parameters = initial_parameters(network, seed=0)
    parameters.W[0][...] = 0
    x, d = np.ones((ROWS, 2)), np.ones((ROWS, 1))
    checks = check_gradients(network, parameters, x, d, seed=0)
    assert all(check.ok for check in checks), checks
    kinks = {check.name: check.kinks for check in checks}
    assert kinks["b1"] > 0
    assert kinks["b2"] == 0


def test_probes_that_are_all_at_kinks_prove_nothing() -> None:
    check = GradientCheck(1, "W1", (2, 2), 4, 2, kinks=6, unresolved=6, error=0.0, tolerance=1e-6)
    assert not check.ok


def test_a_float32_network_is_checked_in_float64() -> None:
    network = Network(2, (Layer(1, Tanh()),), L2(), "float32")
    parameters = initial_parameters(network, seed=0)
    x = np.ones((1, 2), dtype=np.float32)
    in32 = check_gradients(network, parameters, x, np.zeros((1, 1)), seed=0)
    wide = replace(network, dtype="float64")
    in64 = check_gradients(
        wide, wide.parameters(parameters.flat.astype(np.float64)), x, np.zeros((1, 1)), seed=0
    )
    assert in32 == in64
