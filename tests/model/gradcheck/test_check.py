"""The gradient check passes correct gradients of every kind and catches wrong ones."""

from dataclasses import dataclass, fields, replace

import numpy as np
import pytest

from sumgrad.model.activations import make_activation
from sumgrad.model.activations.base import Activation
from sumgrad.model.activations.scalar import Absolute, LeakyReLU, ReLU, Tanh
from sumgrad.model.activations.vector import Max, Softmax
from sumgrad.model.divergences import DIVERGENCES, L2, Divergence, MultiClassKL, Targets, TwoClassKL
from sumgrad.model.gradcheck.check import GradientCheck, check_gradients
from sumgrad.model.initializers import initial_parameters
from sumgrad.model.network import Layer, Network
from sumgrad.model.validation import Array
from tests.model.cases import (
    ACTIVATION_CASES,
    some_network,
    some_parameters,
    some_targets,
)

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


@pytest.mark.parametrize("case", ACTIVATION_CASES)
def test_every_activation_passes_within_a_network(case: str) -> None:
    network = some_network([ACTIVATION_CASES[case], Tanh()], L2())
    x = np.random.default_rng(1).standard_normal((ROWS, network.inputs))
    d = some_targets(network.divergence, (ROWS, network.outputs), seed=1)
    checks = check_gradients(network, some_parameters(network, 1), x, d, seed=0, entries=6)
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
class WrongForLargeInputs(Tanh):
    """Wrong only for larger z."""

    def derivative(self, z: Array, y: Array) -> Array:
        return np.where(z > 0.3, 0.9, 1.0) * (1 - y * y)


@dataclass(frozen=True)
class AverageL2(L2):
    """thinc's mistake: a gradient that is not the derivative of the value."""

    def gradient(self, y: Array, d: Targets) -> Array:
        return 2 * (y - d)


@dataclass(frozen=True)
class UnfusedSoftmaxKL(MultiClassKL):
    """Forgets to subtract the target."""

    def fused_gradient(self, y: Array, d: Targets) -> Array:
        return y


@dataclass(frozen=True)
class NotANumber(Tanh):
    """A gradient that is NaN must not pass for a small error."""

    def derivative(self, z: Array, y: Array) -> Array:
        return np.full_like(z, np.nan)


def names_of_wrong(checks: tuple[GradientCheck, ...]) -> set[str]:
    return {check.name for check in checks if not check.ok}


@pytest.mark.parametrize("wrong", [WrongTanh(), WrongForLargeInputs(), NotANumber()])
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


def at_kinks(activation: Activation, blank: bool = True) -> tuple[GradientCheck, ...]:
    """Check a network each of whose z_1 is exactly 0."""
    network = Network(2, (Layer(3, activation), Layer(1, make_activation("identity"))), L2())
    parameters = initial_parameters(network, seed=0)
    if not blank:
        parameters.W[0][...] = 0
    x = np.zeros((ROWS, 2)) if blank else np.random.default_rng(3).standard_normal((ROWS, 2))
    return check_gradients(network, parameters, x, np.ones((ROWS, 1)), seed=0)


@pytest.mark.parametrize("blank", [True, False])
@pytest.mark.parametrize("activation", [ReLU(), LeakyReLU(0.3), Absolute()])
def test_right_subgradients_pass_and_their_kinks_are_counted(
    activation: Activation, blank: bool
) -> None:
    checks = at_kinks(activation, blank)
    assert all(check.ok for check in checks), checks
    kinks = {check.name: check.kinks for check in checks}
    assert kinks["b1"] == 3 + 3
    assert (kinks["W1"] > 0) == (not blank)
    assert kinks["W2"] == kinks["b2"] == 0


@dataclass(frozen=True)
class SteepAtZero(ReLU):
    """Right but at the kink, where 2 is no subgradient."""

    def derivative(self, z: Array, y: Array) -> Array:
        return np.where(z == 0, 2.0, super().derivative(z, y))

    def vjp_into(self, z: Array, y: Array, d_y: Array, out: Array) -> None:
        out[...] = d_y * self.derivative(z, y)


@dataclass(frozen=True)
class HalfAtZero(SteepAtZero):
    """Another subgradient of the same function."""

    def derivative(self, z: Array, y: Array) -> Array:
        return np.where(z == 0, 0.5, ReLU().derivative(z, y))


@pytest.mark.parametrize("blank", [True, False])
def test_mutation_a_wrong_subgradient_is_caught(blank: bool) -> None:
    assert all(check.ok for check in at_kinks(HalfAtZero(), blank))
    assert "b1" in names_of_wrong(at_kinks(SteepAtZero(), blank))


def test_mutation_a_wrong_subgradient_of_one_unit_among_many_is_caught() -> None:
    network = Network(2, (Layer(16, SteepAtZero()), Layer(1, make_activation("identity"))), L2())
    parameters = some_parameters(network, 0)
    parameters.W[0][3] = 0
    parameters.b[0][3] = 0
    x = np.random.default_rng(0).standard_normal((ROWS, 2))
    by_b1 = check_gradients(network, parameters, x, np.ones((ROWS, 1)), seed=0)[1]
    assert by_b1.error > 1e-3
    assert not by_b1.ok


def test_the_step_is_one_of_z_at_any_scale_of_x() -> None:
    network = Network(3, (Layer(4, Tanh()), Layer(1, make_activation("identity"))), L2())
    parameters = some_parameters(network, 0)
    parameters.W[0][...] *= 1e-6
    x = 1e6 * np.random.default_rng(0).standard_normal((ROWS, 3))
    checks = check_gradients(network, parameters, x, np.ones((ROWS, 1)), seed=0)
    assert all(check.ok for check in checks), checks
    assert not any(check.kinks for check in checks)


def test_a_kink_without_a_gap_passes() -> None:
    """relu(x) − relu(−x) is x, and yet the subgradients at 0 add up to 0."""
    network = Network(1, (Layer(2, ReLU()), Layer(1, make_activation("identity"))), L2())
    flat = np.array([1.0, -1.0, 0.0, 0.0, 1.0, -1.0, 0.0])
    parameters = replace(network, dtype="float64").parameters(flat)
    x, d = np.zeros((1, 1)), np.ones((1, 1))
    by_input = {c.name: c for c in check_gradients(network, parameters, x, d, seed=0)}["x"]
    assert by_input.ok
    assert by_input.kinks > 0


def test_ties_of_overlapping_subsets_pass() -> None:
    checks = at_kinks(Max(subsets=((0, 1), (1, 2), (2, 0))))
    assert all(check.ok for check in checks), checks


@pytest.mark.parametrize("scale", [0.01, 255.0])
@pytest.mark.parametrize("seed", range(2))
def test_random_networks_pass_at_any_scale_and_with_a_blank_instance(
    seed: int, scale: float
) -> None:
    """Initial biases are 0, so that a blank instance puts every unit of every layer at its kink."""
    generator = np.random.default_rng(seed)
    hidden = [ACTIVATION_CASES[name] for name in generator.choice(list(ACTIVATION_CASES), 3)]
    network = some_network([*hidden, Softmax()], MultiClassKL())
    x = scale * generator.random((ROWS, network.inputs))
    x[0] = 0
    parameters = initial_parameters(network, seed=seed)
    checks = check_gradients(network, parameters, x, np.arange(ROWS) % network.outputs, seed=seed)
    assert all(check.ok for check in checks), checks


def test_probes_that_are_all_at_kinks_prove_nothing() -> None:
    check = GradientCheck(1, "W1", (2, 2), 4, 2, kinks=6, unresolved=6, error=0.0, tolerance=1e-6)
    assert not check.ok
    assert not replace(check, unresolved=3).ok
    assert replace(check, unresolved=2).ok


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


def distorted(activation: Activation) -> Activation:
    """The same activation, but for a vjp that is too large by a thousandth."""
    kind: type[Activation] = type(activation)

    def vjp_into(self: Activation, z: Array, y: Array, d_y: Array, out: Array) -> None:
        out[...] = kind.vjp(self, z, y, d_y) * 1.001

    wrong: type[Activation] = type(f"Wrong{kind.__name__}", (kind,), {"vjp_into": vjp_into})
    return wrong(**{field.name: getattr(activation, field.name) for field in fields(activation)})


@pytest.mark.parametrize("case", ACTIVATION_CASES)
def test_mutation_a_wrong_vjp_of_any_activation_is_caught(case: str) -> None:
    network = some_network([distorted(ACTIVATION_CASES[case]), Tanh()], L2())
    x = np.random.default_rng(1).standard_normal((ROWS, network.inputs))
    d = some_targets(network.divergence, (ROWS, network.outputs), seed=1)
    parameters = some_parameters(network, 1)
    checks = check_gradients(network, parameters, x, d, seed=0, entries=2, directions=1)
    assert names_of_wrong(checks) == {"W1", "b1", "x"}, checks


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_mutation_a_wrong_gradient_of_any_divergence_is_caught(name: str, fused: bool) -> None:
    kind: type[Divergence] = DIVERGENCES[name]

    def gradient(self: Divergence, y: Array, d: Targets) -> Array:
        return kind.gradient(self, y, d) * 1.001

    def fused_gradient(self: Divergence, y: Array, d: Targets) -> Array:
        return kind.fused_gradient(self, y, d) * 1.001

    wrong = type("Wrong", (kind,), {"gradient": gradient, "fused_gradient": fused_gradient})
    output = kind.fused() if kind.fused else Tanh()
    if not fused:
        # Only the exact class is fused, so a subclass takes the unfused path.
        output = type("Plain", (type(output),), {})()
    for divergence, ok in ((kind(), True), (wrong(), False)):
        network = some_network([Tanh(), output], divergence)
        assert network.fused == (fused and kind.fused is not None)
        x = np.random.default_rng(2).standard_normal((ROWS, network.inputs))
        d = some_targets(kind(), (ROWS, network.outputs), seed=2)
        checks = check_gradients(network, some_parameters(network, 2), x, d, seed=0, entries=3)
        assert {check.ok for check in checks} == {ok}, checks


def test_the_same_seed_gives_the_same_checks() -> None:
    assert run(Tanh(), Tanh(), L2()) == run(Tanh(), Tanh(), L2())


def test_arguments_are_not_changed() -> None:
    network = Network(3, (Layer(4, ReLU()), Layer(2, Tanh())), L2())
    parameters = initial_parameters(network, seed=0)
    x, d = np.ones((2, 3), np.float32), np.zeros((2, 2), np.float32)
    before = parameters.sha256(), x.tobytes(), d.tobytes()
    for array in (parameters.flat, x, d):
        array.setflags(write=False)
    check_gradients(network, parameters, x, d, seed=0)
    assert (parameters.sha256(), x.tobytes(), d.tobytes()) == before


def test_a_large_network_is_checked_along_few_directions() -> None:
    layers = (Layer(100, ReLU()), Layer(100, ReLU()), Layer(10, Softmax()))
    network = Network(784, layers, MultiClassKL())
    generator = np.random.default_rng(0)
    checks = check_gradients(
        network,
        initial_parameters(network, seed=0),
        generator.random((8, 784)),
        generator.integers(0, 10, 8),
        seed=0,
        entries=4,
    )
    assert all(check.ok for check in checks), checks
