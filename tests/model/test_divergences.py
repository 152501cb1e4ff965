"""Divergences against SciPy; gradients against central differences; degenerate targets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from sumgrad.model import DIVERGENCES, Divergence, OptionError, ShapeError, resolve_divergence
from sumgrad.model.activations.scalar import Identity, ReLU, Sigmoid
from sumgrad.model.activations.vector import Softmax
from sumgrad.model.divergences import (
    L2,
    MultiClassKL,
    Targets,
    TwoClassKL,
    as_distributions,
    finite_log,
    log_grad,
)
from tests.model.cases import some_targets
from tests.model.oracles import FLOATS, STEP, DType, Floats, assert_near, numeric_jacobian

SHAPE = (9, 4)


def half_square(y: Floats, d: Floats) -> Floats:
    return np.array(
        [float((row - target) @ (row - target)) / 2 for row, target in zip(y, d, strict=True)]
    )


def relative_entropies(y: Floats, d: Floats) -> Floats:
    both: Floats = special.rel_entr(d, y) + special.rel_entr(1 - d, 1 - y)
    return np.asarray(both.sum(axis=1))


VALUES: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "l2": half_square,
    "kl_two_class": relative_entropies,
    "kl_multi_class": lambda y, d: np.asarray(special.rel_entr(d, y).sum(axis=1)),
}

#: Logits and their activation in float64, by SciPy.
LOGITS: Mapping[str, Callable[[Floats], Floats]] = {
    "kl_two_class": special.expit,
    "kl_multi_class": lambda z: np.asarray(special.softmax(z, axis=1)),
}


def outputs(name: str, seed: int) -> Floats:
    """y that the divergence can take, well inside of its range."""
    # Streams of their own: targets of the same seed shall not equal the outputs.
    z = np.random.default_rng([seed, 1]).normal(0, 0.5, SHAPE)
    return LOGITS[name](z) if name in LOGITS else z


def check_gradient(divergence: Divergence, y: Floats, d: Floats) -> None:
    """The gradient is the derivative of exactly the value given."""
    numeric = numeric_jacobian(lambda rows: divergence.value(rows, d)[:, None], y)[:, 0]
    assert_near(divergence.gradient(y, d), numeric, 1e-8)


def fused_value(divergence: Divergence, z: Floats, d: Floats) -> Floats:
    """``Div(f(z), d)`` by the fused path."""
    assert divergence.fused is not None
    return divergence.fused_value(z, divergence.fused().value(z), d)


def check_fused_gradient(divergence: Divergence, z: Floats, d: Floats) -> None:
    """The fused gradient is the derivative of exactly the fused value."""
    assert divergence.fused is not None
    numeric = numeric_jacobian(lambda rows: fused_value(divergence, rows, d)[:, None], z)[:, 0]
    assert_near(divergence.fused_gradient(divergence.fused().value(z), d), numeric, 1e-8)


@dataclass(frozen=True)
class WholeSquare(L2):
    """A value that is not what the gradient is the derivative of."""

    def value(self, y: Floats, d: Targets) -> Floats:
        return np.asarray(np.sum(np.square(y - d), axis=1))


@dataclass(frozen=True)
class AveragedKL(MultiClassKL):
    def fused_gradient(self, y: Floats, d: Targets) -> Floats:
        return (y - d) / len(y)


def test_every_registered_divergence_has_a_case() -> None:
    assert set(VALUES) == set(DIVERGENCES)
    assert set(LOGITS) == {name for name, kind in DIVERGENCES.items() if kind.fused is not None}


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient(name: str, seed: int) -> None:
    divergence = DIVERGENCES[name]()
    y, d = outputs(name, seed), some_targets(divergence, SHAPE, seed)
    np.testing.assert_allclose(divergence.value(y, d), VALUES[name](y, d), rtol=1e-12, atol=1e-13)
    check_gradient(divergence, y, d)


@pytest.mark.parametrize("name", LOGITS)
@pytest.mark.parametrize("seed", range(3))
def test_fused_path_equals_the_chain(name: str, seed: int) -> None:
    divergence = DIVERGENCES[name]()
    assert divergence.fused is not None
    activation = divergence.fused()
    z = 2 * np.random.default_rng(seed).standard_normal(SHAPE)
    y, d = activation.value(z), some_targets(divergence, SHAPE, seed)
    np.testing.assert_allclose(fused_value(divergence, z, d), divergence.value(y, d), rtol=1e-12)
    chain = np.einsum("ij,ijk->ik", divergence.gradient(y, d), activation.jacobian(z))
    np.testing.assert_allclose(divergence.fused_gradient(y, d), chain, rtol=1e-12, atol=1e-14)
    check_fused_gradient(divergence, z, d)


def test_a_gradient_that_is_not_the_values_is_caught() -> None:
    y, d = outputs("l2", 0), some_targets(L2(), SHAPE, 0)
    with pytest.raises(AssertionError):
        check_gradient(WholeSquare(), y, d)
    with pytest.raises(AssertionError):
        check_fused_gradient(AveragedKL(), y, some_targets(MultiClassKL(), SHAPE, 0))


def test_fused_gradient_holds_for_targets_that_do_not_sum_to_one() -> None:
    z = np.random.default_rng(0).standard_normal(SHAPE)
    d = np.random.default_rng(1).uniform(0, 3, SHAPE)
    check_fused_gradient(MultiClassKL(), z, d)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_dtype_is_kept(name: str, dtype: DType) -> None:
    divergence = DIVERGENCES[name]()
    y = outputs(name, 0).astype(dtype)
    d = divergence.targets(some_targets(divergence, SHAPE, 0), y)
    results = [d, divergence.value(y, d), divergence.gradient(y, d)]
    if divergence.fused:
        results += [fused_value(divergence, y, d), divergence.fused_gradient(y, d)]
    assert {result.dtype for result in results} == {np.dtype(dtype)}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_value_is_at_least_zero_and_zero_where_output_and_target_agree(name: str) -> None:
    divergence = DIVERGENCES[name]()
    d = some_targets(divergence, SHAPE, 3)
    np.testing.assert_allclose(divergence.value(d, d), 0, atol=1e-15)
    assert (divergence.value(outputs(name, 4), d) > 0).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_two_class_degenerate_targets_are_finite(dtype: DType) -> None:
    y = np.array([[0.25], [0.25], [0.0], [1.0], [0.0], [1.0]], dtype=dtype)
    d = np.array([[0], [1], [0], [1], [1], [0]], dtype=dtype)
    value, gradient = TwoClassKL().value(y, d), TwoClassKL().gradient(y, d)
    np.testing.assert_allclose(value[:2], [-np.log(0.75), -np.log(0.25)], rtol=1e-6)
    np.testing.assert_array_equal(value[2:4], 0)
    assert np.isfinite(value).all()
    assert (value[4:] > 80).all()
    np.testing.assert_allclose(gradient[:4, 0], [1 / 0.75, -4, 1, -1], rtol=1e-6)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_multi_class_degenerate_targets_are_finite(dtype: DType) -> None:
    y = np.array([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]], dtype=dtype)
    d = np.array([[1, 0, 0], [0, 0, 1]], dtype=dtype)
    value, gradient = MultiClassKL().value(y, d), MultiClassKL().gradient(y, d)
    assert value[0] == pytest.approx(np.log(2))
    assert value[1] > 80
    assert gradient[0].tolist() == [-2, 0, 0]
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()


def test_log_is_continued_by_its_tangent() -> None:
    tiny = np.finfo(np.float64).tiny
    y = np.array([0.0, tiny / 2, tiny, 2 * tiny, 0.5, 1.0])
    log = np.log(tiny)
    expected = [log - 1, log - 0.5, log, np.log(2 * tiny), np.log(0.5), 0]
    np.testing.assert_allclose(finite_log(y), expected, rtol=1e-15)
    np.testing.assert_allclose(
        log_grad(y), [1 / tiny, 1 / tiny, 1 / tiny, 0.5 / tiny, 2, 1], rtol=1e-15
    )
    step = STEP * tiny
    inside = (finite_log(y[1:2] + step) - finite_log(y[1:2] - step)) / (2 * step)
    assert inside[0] == pytest.approx(1 / tiny, rel=1e-3)


@pytest.mark.parametrize("dtype", FLOATS)
def test_two_class_logits_far_out(dtype: DType) -> None:
    z = np.array([[1e4], [1e4], [-1e4], [-1e4], [1e4]], dtype=dtype)
    d = np.array([[1], [0], [1], [0], [0.25]], dtype=dtype)
    entropy = 0.25 * np.log(0.25) + 0.75 * np.log(0.75)
    value = fused_value(TwoClassKL(), z, d)
    np.testing.assert_allclose(value, [0, 1e4, 1e4, 0, 7500 + entropy], rtol=1e-6)
    gradient = TwoClassKL().fused_gradient(Sigmoid().value(z), d)
    np.testing.assert_array_equal(gradient[:, 0], [0, 1, -1, 0, 0.75])


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_small_two_class_divergence_is_right_to_the_last_digits(dtype: DType) -> None:
    # softplus(z) − d·z, the same by algebra, would be 0 here.
    z, d = np.array([[40.0], [-40.0]], dtype=dtype), np.array([[1], [0]], dtype=dtype)
    np.testing.assert_allclose(fused_value(TwoClassKL(), z, d), np.exp(-40), rtol=1e-6)


def test_class_indices_equal_distributions() -> None:
    z = 3 * np.random.default_rng(0).standard_normal((9, 4))
    y, classes = Softmax().value(z), np.arange(9) % 4
    kl, d = MultiClassKL(), np.eye(4)[classes]
    for method, arguments in (
        ("value", [y]),
        ("gradient", [y]),
        ("fused_value", [z, y]),
        ("fused_gradient", [y]),
    ):
        by_index, by_distribution = (getattr(kl, method)(*arguments, each) for each in (classes, d))
        np.testing.assert_array_equal(by_index, by_distribution)


@pytest.mark.parametrize("dtype", FLOATS)
def test_multi_class_logits_far_out(dtype: DType) -> None:
    z = np.array([[1e4, -1e4, 0], [1e4, -1e4, 0], [1e4, 1e4, -1e4]], dtype=dtype)
    d = np.array([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]], dtype=dtype)
    value = fused_value(MultiClassKL(), z, d)
    np.testing.assert_allclose(value, [0, 2e4, 0], rtol=1e-6, atol=1e-7)
    gradient = MultiClassKL().fused_gradient(Softmax().value(z), d)
    np.testing.assert_array_equal(gradient, [[0, 0, 0], [1, -1, 0], [0, 0, 0]])


@pytest.mark.parametrize("name", LOGITS)
def test_the_unfused_chain_stays_finite_far_out(name: str) -> None:
    divergence = DIVERGENCES[name]()
    assert divergence.fused is not None
    z = np.array([[1e4, -1e4, 0, 1e4]], dtype=np.float32)
    y = divergence.fused().value(z)
    for d in np.eye(4, dtype=np.float32)[:, None]:
        assert np.isfinite(divergence.value(y, d)).all()
        assert np.isfinite(divergence.gradient(y, d)).all()


@given(z=st.floats(-60, 60), d=st.floats(0, 1))
@settings(derandomize=True, deadline=None)
def test_two_class_fused_value_against_extended_precision(z: float, d: float) -> None:
    target, logit = np.longdouble(d), np.longdouble(z)
    expected = np.longdouble(0)
    for share, sign in ((target, 1), (1 - target, -1)):
        if share > 0:
            expected += share * (np.log(share) + np.log1p(np.exp(-sign * logit)))
    value = fused_value(TwoClassKL(), np.array([[z]]), np.array([[d]]))
    assert value[0] == pytest.approx(float(expected), rel=1e-14, abs=1e-15)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.int64, np.uint64, ">i4"])
def test_class_indices_are_one_hot_distributions(kind: str) -> None:
    y = outputs("kl_multi_class", 0)
    classes = np.array([0, 3, 1, 2, 2, 0, 3, 3, 1]).astype(kind)
    d = MultiClassKL().targets(classes, y)
    np.testing.assert_array_equal(as_distributions(d, y), np.eye(4)[classes.astype(int)])
    assert as_distributions(d, y).dtype == y.dtype


def test_two_class_targets_of_either_shape_are_the_same() -> None:
    y = outputs("kl_two_class", 0)[:, :1]
    d = np.linspace(0, 1, len(y))
    flat, column = TwoClassKL().targets(d, y), TwoClassKL().targets(d[:, None], y)
    np.testing.assert_array_equal(flat, column)
    assert flat.shape == y.shape


@pytest.mark.parametrize("kind", [bool, np.int64, np.float32])
def test_two_class_targets_may_be_of_any_kind_of_number(kind: type) -> None:
    y = np.full((2, 1), 0.5)
    np.testing.assert_array_equal(TwoClassKL().targets(np.array([0, 1], kind), y), [[0.0], [1.0]])


@pytest.mark.parametrize(
    ("d", "message"),
    [
        (np.array([0, 4]), "class index 4 in d, but y has 4 outputs"),
        (np.array([0, -1]), "class index -1"),
        (np.array([0.0, 1.0]), "float64, expected integers"),
        (np.array([0, 2**63], dtype=np.uint64), "class index 9223372036854775808"),
        (np.array([True, False]), "bool, expected integers"),
        (np.array([0, 1, 2]), r"shape \(3,\), expected \(2\)"),
        (np.zeros((2, 3)), r"shape \(2, 3\), expected \(2, 4\)"),
        (np.full((2, 4), -0.5), "-0.5, expected numbers from 0"),
        (np.array([["a"] * 4] * 2), "expected numbers"),
        (np.zeros((2, 4), dtype=complex), "complex128, expected numbers"),
    ],
)
def test_targets_that_do_not_fit_are_refused(d: Floats, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        MultiClassKL().targets(d, np.full((2, 4), 0.25))


@pytest.mark.parametrize("wrong", [-0.1, 1.1])
def test_two_class_targets_are_probabilities(wrong: float) -> None:
    with pytest.raises(ShapeError, match=f"{wrong:g}, expected numbers from 0 to 1"):
        TwoClassKL().targets(np.array([0.5, wrong]), np.full((2, 1), 0.5))


def test_nothing_broadcasts_by_accident() -> None:
    y = np.zeros((3, 2))
    for d in (np.zeros(3), np.zeros((3, 1)), np.zeros((1, 2)), np.zeros(2), np.zeros((3, 2, 1))):
        with pytest.raises(ShapeError, match="the desired output d has shape"):
            L2().targets(d, y)


def test_kl_stands_for_the_one_that_fits() -> None:
    assert resolve_divergence("kl", Sigmoid()) == TwoClassKL()
    assert resolve_divergence("kl", Softmax()) == MultiClassKL()
    assert resolve_divergence("kl_two_class", Sigmoid()) == TwoClassKL()
    assert resolve_divergence("l2", ReLU()) == L2()


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("kl", Identity()),
        ("kl_two_class", Softmax()),
        ("kl_multi_class", Sigmoid()),
        ("kl_two_class", ReLU()),
    ],
)
def test_kl_needs_probabilities(name: str, output: Sigmoid | Softmax | Identity) -> None:
    with pytest.raises(OptionError, match=f"'{name}' does not fit") as caught:
        resolve_divergence(name, output)
    assert "sigmoid" in caught.value.hint


def test_an_unknown_divergence_gets_a_hint() -> None:
    with pytest.raises(OptionError, match="unknown divergence 'kl_multiclass'") as caught:
        resolve_divergence("kl_multiclass", Softmax())
    assert caught.value.hint == "did you mean 'kl_multi_class'?"


@pytest.mark.parametrize("method", ["fused_value", "fused_gradient"])
def test_l2_has_no_fused_path(method: str) -> None:
    arguments = [np.zeros((1, 1))] * (3 if method == "fused_value" else 2)
    with pytest.raises(NotImplementedError, match="L2"):
        getattr(L2(), method)(*arguments)
