"""Scalar activations against SciPy and central differences; kinks as their docstrings state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special

from sumgrad.model import ACTIVATIONS, Activation, OptionError, ScalarActivation, make_activation
from sumgrad.model.activations.scalar import Sigmoid
from tests.model.cases import ACTIVATION_CASES, ACTIVATION_OPTIONS, WIDTH, smooth_point
from tests.model.oracles import (
    FLOATS,
    DType,
    Floats,
    assert_near,
    check_contraction,
    check_jacobian,
    check_vjp,
    numeric_jacobian,
)


def gelu(z: Floats) -> Floats:
    u = np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)
    result: Floats = z * special.expit(2 * u)
    return result


def mish(z: Floats) -> Floats:
    w = np.exp(z)
    result: Floats = z * (w * w + 2 * w) / (w * w + 2 * w + 2)
    return result


def elu(z: Floats, alpha: float = 1.0) -> Floats:
    return np.piecewise(z, [z > 0], [lambda p: p, lambda n: alpha * (np.exp(n) - 1)])


VALUES: Mapping[str, Callable[[Floats], Floats]] = {
    "absolute": lambda z: np.sqrt(z * z),
    "elu": elu,
    "elu alpha=0.3": lambda z: elu(z, 0.3),
    "gelu": gelu,
    "hard_sigmoid": lambda z: np.minimum(np.maximum(0, (z + 3) / 6), 1),
    "hard_tanh": lambda z: (np.abs(z + 1) - np.abs(z - 1)) / 2,
    "identity": lambda z: z.copy(),
    "leaky_relu": lambda z: np.maximum(z, 0.01 * z),
    "leaky_relu slope=0.25": lambda z: np.maximum(z, 0.25 * z),
    "leaky_relu slope=0.0": lambda z: (z + np.abs(z)) / 2,
    "leaky_relu slope=1.0": lambda z: z.copy(),
    "log_sigmoid": special.log_expit,
    "mish": mish,
    "relu": lambda z: (z + np.abs(z)) / 2,
    "relu6": lambda z: np.minimum((z + np.abs(z)) / 2, 6),
    "selu": lambda z: 1.0507009873554804934 * elu(z, 1.6732632423543772848),
    "sigmoid": special.expit,
    "silu": lambda z: z * special.expit(z),
    "softplus": lambda z: np.logaddexp(0, z),
    "softsign": lambda z: np.sign(z) * (1 - 1 / (1 + np.abs(z))),
    "tanh": lambda z: 2 * special.expit(2 * z) - 1,
}

SCALAR = {
    case: activation
    for case, activation in ACTIVATION_CASES.items()
    if isinstance(activation, ScalarActivation)
}

#: The value at ±1e4, where exponentials overflow and underflow, and the derivative there.
FAR: Mapping[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "absolute": ((1e4, 1e4), (-1, 1)),
    "elu": ((-1, 1e4), (0, 1)),
    "elu alpha=0.3": ((-0.3, 1e4), (0, 1)),
    "gelu": ((0, 1e4), (0, 1)),
    "hard_sigmoid": ((0, 1), (0, 0)),
    "hard_tanh": ((-1, 1), (0, 0)),
    "identity": ((-1e4, 1e4), (1, 1)),
    "leaky_relu": ((-1e2, 1e4), (0.01, 1)),
    "leaky_relu slope=0.25": ((-2500, 1e4), (0.25, 1)),
    "leaky_relu slope=0.0": ((0, 1e4), (0, 1)),
    "leaky_relu slope=1.0": ((-1e4, 1e4), (1, 1)),
    "log_sigmoid": ((-1e4, 0), (1, 0)),
    "mish": ((0, 1e4), (0, 1)),
    "relu": ((0, 1e4), (0, 1)),
    "relu6": ((0, 6), (0, 0)),
    "selu": ((-1.7580993408473766, 1.0507009873554805e4), (0, 1.0507009873554805)),
    "sigmoid": ((0, 1), (0, 0)),
    "silu": ((0, 1e4), (0, 1)),
    "softplus": ((0, 1e4), (0, 1)),
    "softsign": ((-1e4 / 10001, 1e4 / 10001), (1 / 10001**2, 1 / 10001**2)),
    "tanh": ((-1, 1), (0, 0)),
}

#: The subgradient at each kink, as the docstrings have it.
SUBGRADIENTS: Mapping[str, Mapping[float, float]] = {
    "absolute": {0.0: 0.0},
    "elu": {0.0: 1.0},
    "elu alpha=0.3": {0.0: 0.3},
    "hard_sigmoid": {-3.0: 0.0, 3.0: 0.0},
    "hard_tanh": {-1.0: 0.0, 1.0: 0.0},
    "leaky_relu": {0.0: 0.01},
    "leaky_relu slope=0.25": {0.0: 0.25},
    "leaky_relu slope=0.0": {0.0: 0.0},
    "relu": {0.0: 0.0},
    "relu6": {0.0: 0.0, 6.0: 0.0},
    "selu": {0.0: 1.0507009873554805 * 1.6732632423543772},
}


@dataclass(frozen=True)
class WrongSigmoid(Sigmoid):
    def derivative(self, z: Floats, y: Floats) -> Floats:
        return y * (1 - y) + 1e-6


@dataclass(frozen=True)
class UnfaithfulSigmoid(Sigmoid):
    """The value and Jacobian of one function, the vjp of another."""

    def vjp(self, z: Floats, y: Floats, d_y: Floats) -> Floats:
        return d_y * y


def test_every_registered_activation_has_a_case() -> None:
    assert set(ACTIVATION_OPTIONS) == set(ACTIVATIONS)
    assert set(VALUES) == set(FAR) == set(SCALAR)


def test_every_option_of_an_activation_is_tested_with_another_value() -> None:
    for name, kind in ACTIVATIONS.items():
        tested = {option for options in ACTIVATION_OPTIONS[name] for option in options}
        assert tested == {field.name for field in fields(kind)}


@pytest.mark.parametrize("case", SCALAR)
def test_value_is_the_references(case: str) -> None:
    z = smooth_point(1, (40, WIDTH), scale=4)
    np.testing.assert_allclose(SCALAR[case].value(z), VALUES[case](z), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("case", SCALAR)
def test_derivative_is_that_of_the_reference(case: str) -> None:
    z = smooth_point(2, (40, WIDTH), scale=4)
    expected = np.einsum("ijj->ij", numeric_jacobian(VALUES[case], z))
    assert_near(SCALAR[case].derivative(z, VALUES[case](z)), expected, 1e-8)


@pytest.mark.parametrize("wrong", [WrongSigmoid(), UnfaithfulSigmoid()])
def test_a_wrong_derivative_is_caught(wrong: Activation) -> None:
    with pytest.raises(AssertionError):
        check_vjp(wrong, smooth_point(0, (5, WIDTH)))


def test_a_vjp_of_another_function_than_the_jacobian_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_contraction(UnfaithfulSigmoid(), smooth_point(0, (5, WIDTH)))
    with pytest.raises(AssertionError):
        check_jacobian(WrongSigmoid(), smooth_point(0, (5, WIDTH)))


@pytest.mark.parametrize("activation", SCALAR.values(), ids=SCALAR)
@pytest.mark.parametrize("dtype", FLOATS)
def test_dtype_and_shape_are_kept(activation: ScalarActivation, dtype: DType) -> None:
    z = smooth_point(3, (7, WIDTH)).astype(dtype)
    y = activation.value(z)
    d_z = activation.vjp(z, y, np.ones_like(y))
    J = activation.jacobian(z)
    assert y.dtype == d_z.dtype == J.dtype == activation.derivative(z, y).dtype == dtype
    assert y.shape == d_z.shape == z.shape
    assert J.shape == (7, WIDTH, WIDTH)


@pytest.mark.parametrize("case", SCALAR)
def test_float32_is_near_float64(case: str) -> None:
    z = smooth_point(4, (20, WIDTH)).astype(np.float32)
    exact = z.astype(np.float64)
    activation = SCALAR[case]
    y, slope = activation.value(z), activation.derivative(z, activation.value(z))
    np.testing.assert_allclose(y, VALUES[case](exact), rtol=1e-5, atol=2e-6)
    expected = activation.derivative(exact, activation.value(exact))
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("case", SCALAR)
@pytest.mark.parametrize("dtype", FLOATS)
def test_far_out_it_is_finite_and_right(case: str, dtype: DType) -> None:
    activation = SCALAR[case]
    values, slopes = FAR[case]
    z = np.array([[-1e4, 1e4]], dtype=dtype)
    y = activation.value(z)
    np.testing.assert_allclose(y[0], values, rtol=1e-6, atol=1e-30)
    d_y = np.array([[3.0, -2.0]], dtype=dtype)
    d_z = activation.vjp(z, y, d_y)
    np.testing.assert_allclose(d_z[0], np.multiply([3.0, -2.0], slopes), rtol=1e-6, atol=1e-30)
    slope = activation.jacobian(z)[0]
    np.testing.assert_allclose(slope, np.diag(slopes), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("case", SUBGRADIENTS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_subgradient_at_a_kink(case: str, dtype: DType) -> None:
    activation = SCALAR[case]
    z = np.array([list(SUBGRADIENTS[case])], dtype=dtype)
    y = activation.value(z)
    expected = np.array([list(SUBGRADIENTS[case].values())])
    for slope in (activation.derivative(z, y), activation.vjp(z, y, np.ones_like(y))):
        np.testing.assert_allclose(slope, expected, rtol=1e-6, atol=0)


@given(
    z=arrays(
        np.float32,
        st.tuples(st.integers(0, 4), st.integers(1, 5)),
        elements=st.floats(-1e4, 1e4, width=32),
    ),
    case=st.sampled_from(sorted(SCALAR)),
)
@settings(derandomize=True, deadline=None)
def test_components_are_taken_alone(z: Floats, case: str) -> None:
    activation = SCALAR[case]
    y = activation.value(z)
    for i, j in np.ndindex(z.shape):
        assert y[i, j] == pytest.approx(activation.value(z[i : i + 1, j : j + 1]).item(), rel=1e-6)
    assert np.isfinite(activation.vjp(z, y, np.ones_like(y))).all()


def test_a_numpy_option_does_not_widen_float32() -> None:
    z = np.array([[-1.0, 2.0]], dtype=np.float32)
    leaky = make_activation({"name": "leaky_relu", "slope": np.float64(0.25)})
    assert leaky.value(z).dtype == np.float32
    np.testing.assert_array_equal(leaky.value(z), [[-0.25, 2.0]])


@pytest.mark.parametrize(
    ("named", "option"),
    [
        ({"name": "leaky_relu", "slope": -0.1}, "slope"),
        ({"name": "leaky_relu", "slope": 1.5}, "slope"),
        ({"name": "leaky_relu", "slope": True}, "slope"),
        ({"name": "leaky_relu", "slope": "0.1"}, "slope"),
        ({"name": "elu", "alpha": -1.0}, "alpha"),
        ({"name": "elu", "alpha": float("nan")}, "alpha"),
    ],
)
def test_an_option_out_of_its_range_is_refused(named: dict[str, object], option: str) -> None:
    with pytest.raises(OptionError, match=option):
        make_activation(named)
