"""Networks of every kind against the lecture's recursions, SciPy and scikit-learn; and sums."""

import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from sklearn.neural_network import MLPClassifier, MLPRegressor

from sumgrad.model import (
    DIVERGENCES,
    Activation,
    Cache,
    Divergence,
    Layer,
    Network,
    OptionError,
    Parameters,
    ShapeError,
    make_activation,
)
from sumgrad.model.activations.scalar import Identity, ReLU, Sigmoid, Tanh
from sumgrad.model.activations.vector import Max, Maxout, Softmax
from sumgrad.model.divergences import L2, MultiClassKL, Targets, TwoClassKL
from sumgrad.model.network import predict_class
from tests.model.cases import (
    ACTIVATION_CASES,
    WIDTH,
    fits,
    some_network,
    some_parameters,
    some_targets,
)
from tests.model.oracles import FLOATS, DType, Floats, assert_near, lecture_gradients

ROWS = 7
INPUTS = 5

#: Output layers and divergences that combine.
ENDS: dict[str, tuple[Activation, Divergence]] = {
    f"{case}-{name}": (activation, kind())
    for case, activation in ACTIVATION_CASES.items()
    for name, kind in DIVERGENCES.items()
    if name == "l2" or fits(kind(), activation)
}

#: One way to end a network for each divergence.
USUAL_ENDS: dict[str, tuple[Activation, Divergence]] = {
    "l2": (Identity(), L2()),
    "kl_two_class": (Sigmoid(), TwoClassKL()),
    "kl_multi_class": (Softmax(), MultiClassKL()),
}


def data(network: Network, seed: int, rows: int = ROWS) -> tuple[Floats, Floats]:
    """x and d for a network, in its dtype."""
    x = np.random.default_rng([seed, 2]).standard_normal((rows, network.inputs))
    d = some_targets(network.divergence, (rows, network.outputs), seed)
    return x.astype(network.dtype), d.astype(network.dtype)


def usual(dtype: str = "float64") -> tuple[Network, Parameters, Floats, Floats]:
    """A network of three layers with its parameters and data."""
    network = some_network([Tanh(), Maxout(), Softmax()], MultiClassKL(), INPUTS, dtype)
    return network, some_parameters(network, 1), *data(network, 1)


def check_against_lecture(network: Network, seed: int) -> None:
    """Every gradient equals that of the naive recursions."""
    parameters = some_parameters(network, seed)
    x, d = data(network, seed)
    d_W, d_b, d_x = lecture_gradients(network, parameters, x, d)
    sums = network.gradient_sum(parameters, x, d)
    for actual, expected in zip(sums.gradients.W + sums.gradients.b, d_W + d_b, strict=True):
        assert_near(actual, expected, 1e-10)
    assert_near(network.input_gradient(parameters, x, d), d_x, 1e-10)


def check_sums(network: Network) -> None:
    """The sums over rows are the sums of what each row gives alone."""
    parameters = some_parameters(network, 3)
    x, d = data(network, 3)
    sums = network.gradient_sum(parameters, x, d)
    single = [network.gradient_sum(parameters, x[[i]], d[[i]]) for i in range(ROWS)]
    assert sums.count == sum(one.count for one in single) == ROWS
    assert sums.divergence == pytest.approx(sum(one.divergence for one in single), rel=1e-13)
    expected = np.sum([one.gradients.flat for one in single], axis=0)
    assert_near(sums.gradients.flat, expected, 1e-13)


@dataclass(frozen=True)
class AveragingNetwork(Network):
    def backward(
        self, parameters: Parameters, cache: Cache, d: Targets, *, out: Parameters | None = None
    ) -> Parameters:
        gradients = super().backward(parameters, cache, d, out=out)
        gradients.flat /= len(d)
        return gradients


@dataclass(frozen=True)
class ForgetfulNetwork(Network):
    """Leaves out the Jacobian of the hidden layers."""

    def _step_back(self, parameters: Parameters, cache: Cache, k: int) -> None:
        cache.d_z[k - 2][...] = cache.d_z[k - 1] @ parameters.W[k - 1]


@dataclass(frozen=True)
class ScaledSigmoid(Sigmoid):
    """Derived from the fused activation, but another function."""

    def value(self, z: Floats) -> Floats:
        return super().value(2 * z)

    def derivative(self, z: Floats, y: Floats) -> Floats:
        return 2 * y * (1 - y)


def test_every_divergence_ends_a_network() -> None:
    assert set(USUAL_ENDS) == set(DIVERGENCES)
    assert len(ENDS) == len(ACTIVATION_CASES) + 2


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("end", ENDS)
def test_every_end_equals_the_lecture(end: str, depth: int) -> None:
    output, divergence = ENDS[end]
    choices = list(ACTIVATION_CASES.values())
    picks = np.random.default_rng([depth, len(end)]).choice(len(choices), depth - 1)
    hidden = [choices[pick] for pick in picks]
    check_against_lecture(some_network([*hidden, output], divergence, INPUTS), seed=depth)


@pytest.mark.parametrize("name", USUAL_ENDS)
@pytest.mark.parametrize("hidden", ACTIVATION_CASES.values(), ids=ACTIVATION_CASES)
def test_every_hidden_layer_equals_the_lecture(hidden: Activation, name: str) -> None:
    output, divergence = USUAL_ENDS[name]
    for depth in (1, 2, 3):
        check_against_lecture(some_network([hidden] * depth + [output], divergence), seed=depth)


@given(seed=st.integers(0, 10**6), depth=st.integers(1, 4), rows=st.integers(1, 9))
@settings(derandomize=True, deadline=None, max_examples=60)
def test_random_networks_equal_the_lecture(seed: int, depth: int, rows: int) -> None:
    generator = np.random.default_rng(seed)
    hidden = generator.choice(sorted(ACTIVATION_CASES), depth - 1)
    output, divergence = ENDS[generator.choice(sorted(ENDS))]
    activations = [*(ACTIVATION_CASES[case] for case in hidden), output]
    network = some_network(activations, divergence, int(generator.integers(1, 8)))
    check_against_lecture(network, seed)


def test_an_activation_derived_from_the_fused_one_equals_the_lecture() -> None:
    check_against_lecture(some_network([Tanh(), ScaledSigmoid()], TwoClassKL()), seed=0)


def test_a_wrong_recursion_is_caught() -> None:
    network = some_network([Tanh(), Sigmoid(), Softmax()], MultiClassKL(), INPUTS)
    check_against_lecture(network, seed=1)
    for kind in (ForgetfulNetwork, AveragingNetwork):
        wrong = kind(network.inputs, network.layers, network.divergence, network.dtype)
        with pytest.raises(AssertionError):
            check_against_lecture(wrong, seed=1)


@pytest.mark.parametrize("end", USUAL_ENDS)
def test_gradient_is_the_derivative_of_the_summed_divergence(end: str) -> None:
    output, divergence = USUAL_ENDS[end]
    network = some_network([Tanh(), ReLU(), output], divergence, INPUTS)
    x, d = data(network, 4)

    def loss(flat: Floats) -> float:
        return network.gradient_sum(network.parameters(flat), x, d).divergence

    def gradient(flat: Floats) -> Floats:
        return network.gradient_sum(network.parameters(flat), x, d).gradients.flat

    flat = some_parameters(network, 4).flat
    scale = np.linalg.norm(gradient(flat))
    assert optimize.check_grad(loss, gradient, flat) < 1e-6 * scale
    numeric = optimize.approx_fprime(flat, loss)
    assert np.linalg.norm(numeric - gradient(flat) / ROWS) > 0.5 * scale


@pytest.mark.parametrize("activation", ["identity", "relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("end", USUAL_ENDS)
def test_loss_and_gradient_equal_scikit_learns(activation: str, end: str) -> None:
    output, divergence = USUAL_ENDS[end]
    hidden = make_activation(activation)
    width = 3 if end == "kl_multi_class" else 1
    layers = (Layer(4, hidden), Layer(3, hidden), Layer(width, output))
    network = Network(INPUTS, layers, divergence, "float64")
    parameters = some_parameters(network, 5)
    generator = np.random.default_rng(5)
    x = generator.standard_normal((30, INPUTS))
    d = (
        generator.standard_normal(30)
        if end == "l2"
        else np.arange(30) % (width if width > 1 else 2)
    )

    kind = MLPRegressor if end == "l2" else MLPClassifier
    theirs = kind(
        hidden_layer_sizes=(4, 3),
        activation="logistic" if activation == "sigmoid" else activation,
        solver="sgd",
        momentum=0.0,
        alpha=0.0,
        learning_rate_init=1.0,
        batch_size=30,
    )
    # The first call makes the arrays; the second is one step of gradient descent from our weights.
    theirs.partial_fit(x, d) if end == "l2" else theirs.partial_fit(x, d, classes=np.unique(d))
    for k in range(3):
        theirs.coefs_[k][...] = parameters.W[k].T
        theirs.intercepts_[k][...] = parameters.b[k]
    theirs.partial_fit(x, d)

    sums = network.gradient_sum(parameters, x, d)
    assert theirs.loss_ == pytest.approx(sums.divergence / sums.count, rel=1e-12)
    for k in range(3):
        step_W = parameters.W[k] - theirs.coefs_[k].T
        step_b = parameters.b[k] - theirs.intercepts_[k]
        assert_near(step_W * 30, sums.gradients.W[k], 1e-10)
        assert_near(step_b * 30, sums.gradients.b[k], 1e-10)


@pytest.mark.parametrize("end", USUAL_ENDS)
def test_sums_never_averages(end: str) -> None:
    output, divergence = USUAL_ENDS[end]
    check_sums(some_network([Tanh(), Max(), Tanh(), output], divergence, INPUTS))


def test_an_average_is_caught() -> None:
    network = usual()[0]
    with pytest.raises(AssertionError):
        check_sums(AveragingNetwork(network.inputs, network.layers, network.divergence, "float64"))


def test_rows_are_taken_alone() -> None:
    network, parameters, x, d = usual()
    whole = network.divergences(parameters, x, d), network.input_gradient(parameters, x, d)
    for i in range(ROWS):
        alone = network.divergences(parameters, x[[i]], d[[i]])
        np.testing.assert_allclose(alone, whole[0][[i]], rtol=1e-13)
        gradient = network.input_gradient(parameters, x[[i]], d[[i]])
        np.testing.assert_allclose(gradient, whole[1][[i]], rtol=1e-12, atol=1e-14)


def test_the_divergence_is_summed_in_float64() -> None:
    network = Network(1, (Layer(1, Identity()),), L2())
    parameters = network.parameters(np.zeros(2, np.float32))
    d = np.full((10**5, 1), np.sqrt(2), dtype=np.float32)
    sums = network.gradient_sum(parameters, np.zeros((10**5, 1), np.float32), d)
    each = float(np.float32(0.5) * (d[0, 0] * d[0, 0]))
    assert sums.divergence == pytest.approx(1e5 * each, rel=1e-12)


@pytest.mark.parametrize("end", ENDS)
def test_float32_is_near_float64(end: str) -> None:
    output, divergence = ENDS[end]
    exact = some_network([Tanh(), output], divergence, INPUTS)
    rough = replace(exact, dtype="float32")
    parameters = some_parameters(rough, 6)
    x, d = data(rough, 6)
    sums = rough.gradient_sum(parameters, x, d)
    wide = exact.parameters(parameters.flat.astype(np.float64))
    expected = exact.gradient_sum(wide, x.astype(np.float64), d.astype(np.float64))
    assert sums.gradients.flat.dtype == rough.input_gradient(parameters, x, d).dtype == np.float32
    assert_near(sums.gradients.flat, expected.gradients.flat, 1e-5)
    assert sums.divergence == pytest.approx(expected.divergence, rel=1e-5)


@pytest.mark.parametrize("rows", [ROWS, 3])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("case", ACTIVATION_CASES)
def test_the_same_bits_with_a_cache_used_again(case: str, in_place: bool, rows: int) -> None:
    hidden = ACTIVATION_CASES[case]
    network = some_network([hidden, Maxout(2), hidden, Sigmoid()], L2())
    parameters = some_parameters(network, 1)
    x, d = data(network, 2)
    cache = network.cache(ROWS, in_place=in_place)
    network.gradient_sum(parameters, *data(network, 3), cache=cache)
    fresh = network.gradient_sum(parameters, x[:rows], d[:rows])
    again = network.gradient_sum(parameters, x[:rows], d[:rows], cache=cache.narrow(rows))
    assert again.gradients.sha256() == fresh.gradients.sha256()
    assert again.divergence == fresh.divergence
    assert network.evaluation_sum(parameters, x[:rows], d[:rows], cache=cache.narrow(rows)) == (
        network.evaluation_sum(parameters, x[:rows], d[:rows])
    )


class SquashedReLU(ReLU):
    """Needs z but does not declare it: tanh(max(z, 0)) has another derivative."""

    def value(self, z: Floats) -> Floats:
        return np.tanh(super().value(z))

    def value_into(self, z: Floats, out: Floats) -> None:
        out[...] = self.value(z)

    def vjp_into(self, z: Floats, y: Floats, d_y: Floats, out: Floats) -> None:
        out[...] = d_y * (z > 0) * (1 - np.tanh(z) ** 2)


def test_a_cache_is_narrowed_without_a_copy_of_the_last_input() -> None:
    network = some_network([ReLU(), Sigmoid()], L2())
    cache = network.cache(ROWS)
    network.forward(some_parameters(network, 1), data(network, 2)[0], cache=cache)
    assert cache.narrow(2).y[0] is cache.y[0]


def test_in_place_leaves_z_to_an_activation_that_may_need_it() -> None:
    network = some_network([ReLU(), Sigmoid()], L2())
    cache = network.cache(ROWS, in_place=True)
    assert cache.y[1] is cache.z[0]
    assert cache.d_y[0] is cache.d_z[0]
    network = some_network([SquashedReLU(), Sigmoid()], L2())
    cache = network.cache(ROWS, in_place=True)
    parameters, (x, d) = some_parameters(network, 1), data(network, 2)
    fresh = network.gradient_sum(parameters, x, d)
    again = network.gradient_sum(parameters, x, d, cache=cache)
    assert again.gradients.sha256() == fresh.gradients.sha256()


def test_a_cache_for_other_rows_is_refused() -> None:
    network = some_network([Tanh()], L2())
    x, d = data(network, 2)
    with pytest.raises(ShapeError, match="the cache's z"):
        network.gradient_sum(some_parameters(network, 1), x, d, cache=network.cache(ROWS + 1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_again_and_with_out(dtype: str) -> None:
    network, parameters, x, d = usual(dtype)
    first = network.gradient_sum(parameters, x, d)
    again = network.gradient_sum(parameters, x, d)
    out = Parameters.zeros(network.layout, dtype)
    out.flat[...] = np.nan
    written = network.gradient_sum(parameters, x, d, out=out)
    assert written.gradients is out
    assert first.divergence == again.divergence == written.divergence
    assert first.gradients.sha256() == again.gradients.sha256() == out.sha256()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_bits_for_every_layout_in_memory(dtype: str) -> None:
    network = some_network([Tanh(), Softmax()], MultiClassKL(), 67, dtype)
    parameters = some_parameters(network, 7)
    x, d = data(network, 7, rows=41)
    expected = network.gradient_sum(parameters, x, d).gradients.sha256()
    wide = np.zeros((82, 134), dtype)
    wide[::2, ::2] = x
    for same in (np.asfortranarray(x), wide[::2, ::2], x[::-1].copy()[::-1]):
        np.testing.assert_array_equal(same, x)
        assert network.gradient_sum(parameters, same, d).gradients.sha256() == expected
    columns = network.gradient_sum(parameters, x, np.asfortranarray(d))
    assert columns.gradients.sha256() == expected


def test_arguments_are_not_changed() -> None:
    network, parameters, x, d = usual()
    before = x.copy(), d.copy(), parameters.sha256()
    for array in (x, d, parameters.flat):
        array.setflags(write=False)
    network.gradient_sum(parameters, x, d)
    network.input_gradient(parameters, x, d)
    network.evaluation_sum(parameters, x, d)
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(d, before[1])
    assert parameters.sha256() == before[2]


@pytest.mark.parametrize("case", ACTIVATION_CASES)
def test_no_rows_sum_to_zero(case: str) -> None:
    network = some_network([ACTIVATION_CASES[case], Softmax()], MultiClassKL(), INPUTS)
    parameters = some_parameters(network, 0)
    x, d = np.zeros((0, INPUTS)), np.zeros(0, dtype=np.int64)
    sums = network.gradient_sum(parameters, x, d)
    assert (sums.divergence, sums.count) == (0.0, 0)
    assert not sums.gradients.flat.any()
    assert network.evaluation_sum(parameters, x, d) == (0.0, 0, 0)


def test_forward_is_the_lecture() -> None:
    network = Network(2, (Layer(2, ReLU()), Layer(1, Identity())), L2(), "float64")
    W1, b1, W2, b2 = [[1.0, 2.0], [-3.0, 4.0]], [0.5, -0.5], [[10.0, 100.0]], [7.0]
    flat = np.concatenate([np.ravel(part) for part in (W1, b1, W2, b2)])
    cache = network.forward(network.parameters(flat), np.array([[1.0, 1.0], [1.0, -1.0]]))
    assert [z.tolist() for z in cache.z] == [[[3.5, 0.5], [-0.5, -7.5]], [[92.0], [7.0]]]
    assert [y.tolist() for y in cache.y[1:]] == [[[3.5, 0.5], [0.0, 0.0]], [[92.0], [7.0]]]
    assert network.predict(network.parameters(flat), cache.y[0]).tolist() == [[92.0], [7.0]]


def test_evaluation_counts_correct_predictions() -> None:
    network, parameters, x, _ = usual()
    classes = network.predict(parameters, x).argmax(axis=1)
    classes[:2] = (classes[:2] + 1) % WIDTH
    evaluation = network.evaluation_sum(parameters, x, classes)
    assert (evaluation.correct, evaluation.count) == (ROWS - 2, ROWS)
    assert evaluation.divergence == network.gradient_sum(parameters, x, classes).divergence


def test_two_classes_are_decided_at_one_half() -> None:
    assert predict_class(np.array([[0.49], [0.5], [0.51]])).tolist() == [0, 1, 1]
    assert predict_class(np.array([[0.2, 0.4, 0.4], [0.5, 0.3, 0.2]])).tolist() == [1, 0]


def test_class_indices_equal_distributions_and_two_shapes_are_the_same() -> None:
    network, parameters, x, _ = usual()
    classes = np.arange(ROWS) % WIDTH
    by_index = network.gradient_sum(parameters, x, classes)
    by_distribution = network.gradient_sum(parameters, x, np.eye(WIDTH)[classes])
    assert by_index.divergence == by_distribution.divergence
    assert by_index.gradients.sha256() == by_distribution.gradients.sha256()

    two = Network(INPUTS, (Layer(1, Sigmoid()),), TwoClassKL(), "float64")
    weights = some_parameters(two, 2)
    flat = two.gradient_sum(weights, x, np.arange(ROWS) % 2)
    column = two.gradient_sum(weights, x, (np.arange(ROWS) % 2)[:, None])
    assert flat.divergence == column.divergence
    assert flat.gradients.sha256() == column.gradients.sha256()


@pytest.mark.parametrize("scale", [1e2, 1e4])
@pytest.mark.parametrize("end", USUAL_ENDS)
def test_logits_far_out_are_finite_and_right(end: str, scale: float) -> None:
    output, divergence = USUAL_ENDS[end]
    network = Network(1, (Layer(3, output),), divergence)
    parameters = Parameters.zeros(network.layout, np.float32)
    parameters.W[0][...] = [[1], [-1], [0]]
    d = np.array([[0, 1, 0]], np.float32)
    sums = network.gradient_sum(parameters, np.array([[scale]], np.float32), d)
    wrong_by = {
        "l2": scale**2 / 2 + (scale + 1) ** 2 / 2,
        "kl_two_class": 2 * scale + np.log(2),
        "kl_multi_class": 2 * scale,
    }
    d_z: dict[str, list[float]] = {
        "l2": [scale, -scale - 1, 0],
        "kl_two_class": [1, -1, 0.5],
        "kl_multi_class": [1, -1, 0],
    }
    assert sums.divergence == pytest.approx(wrong_by[end], rel=1e-6)
    np.testing.assert_allclose(sums.gradients.b[0], d_z[end], rtol=1e-6, atol=1e-40)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((3, INPUTS + 1)), r"x has shape \(3, 6\), expected \(any, 5\)"),
        (np.zeros(INPUTS), r"x has shape \(5,\)"),
        (np.zeros((1, 3, INPUTS)), r"x has shape \(1, 3, 5\)"),
        (np.zeros((3, INPUTS), dtype=complex), "x is complex128, expected numbers"),
        (np.full((3, INPUTS), "1"), "expected numbers"),
    ],
)
def test_invalid_x_is_refused(x: Floats, message: str) -> None:
    network, parameters, *_ = usual()
    with pytest.raises(ShapeError, match=message):
        network.forward(parameters, x)


@pytest.mark.parametrize(
    ("d", "message"),
    [
        (np.zeros(ROWS - 1, np.int64), "shape"),
        (np.zeros((ROWS + 1, WIDTH)), "shape"),
        (np.zeros((ROWS, WIDTH - 1)), "shape"),
        (np.full(ROWS, 99), "class index 99"),
        (np.full(ROWS, -1), "class index -1"),
        (np.zeros(ROWS), "expected integers"),
    ],
)
@pytest.mark.parametrize("method", ["gradient_sum", "input_gradient", "evaluation_sum"])
def test_invalid_d_is_refused(method: str, d: Floats, message: str) -> None:
    network, parameters, x, _ = usual()
    with pytest.raises(ShapeError, match=message):
        getattr(network, method)(parameters, x, d)


@pytest.mark.parametrize("dtype", FLOATS)
def test_x_of_any_kind_of_number_is_taken(dtype: DType) -> None:
    network, parameters, *_ = usual("float32")
    x = np.arange(2 * INPUTS).reshape(2, INPUTS)
    y = network.predict(parameters, x.astype(dtype))
    assert y.dtype == np.float32


def test_invalid_sizes_and_dtypes_are_refused() -> None:
    layers = (Layer(2, Tanh()),)
    with pytest.raises(OptionError, match="float16"):
        Network(2, layers, L2(), "float16")
    for inputs in (0, -1, 2.0):
        with pytest.raises(OptionError, match="inputs"):
            Network(inputs, layers, L2())  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="at least one layer"):
        Network(2, (), L2())
    for units in (0, -1, 2.0):
        with pytest.raises(OptionError, match="units"):
            Layer(units, Tanh())  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="subset index 5"):
        Network(2, (Layer(5, Max(subsets=((0, 5),))),), L2())


def test_a_flat_vector_of_another_size_or_dtype_is_refused() -> None:
    network = usual()[0]
    size = network.layout.size
    with pytest.raises(ShapeError, match=f"expected \\({size}\\)"):
        network.parameters(np.zeros(size + 1))
    with pytest.raises(ShapeError, match="float32, expected float64"):
        network.parameters(np.zeros(size, np.float32))


def test_parameters_of_an_equal_network_are_accepted() -> None:
    network, _, x, d = usual()
    equal = replace(network)
    assert equal.layout is not network.layout
    assert network.gradient_sum(some_parameters(equal, 1), x, d).count == ROWS


def test_another_networks_parameters_are_refused() -> None:
    network, parameters, x, d = usual()
    other = Network(INPUTS, (Layer(WIDTH, Softmax()),), MultiClassKL(), "float64")
    foreign = Parameters.zeros(other.layout, "float64")
    narrow = Parameters.zeros(network.layout, "float32")
    for wrong, message in ((foreign, "layout"), (narrow, "float32, expected float64")):
        with pytest.raises(ShapeError, match=message):
            network.forward(wrong, x)
        with pytest.raises(ShapeError, match=message):
            network.gradient_sum(parameters, x, d, out=wrong)


def test_gradients_never_overwrite_the_parameters() -> None:
    network, parameters, x, d = usual()
    with pytest.raises(ShapeError, match="overwrite"):
        network.gradient_sum(parameters, x, d, out=network.parameters(parameters.flat))


def test_widths_follow_the_activations() -> None:
    layers = (Layer(4, Maxout(3)), Layer(4, Max(subsets=((0, 1), (2,)))), Layer(6, Softmax()))
    network = Network(5, layers, MultiClassKL())
    assert network.layout.widths == ((5, 12), (4, 4), (2, 6))
    assert network.outputs == 6


def test_only_the_fitting_activation_is_fused() -> None:
    assert some_network([Softmax()], MultiClassKL()).fused
    assert some_network([Sigmoid()], TwoClassKL()).fused
    assert not some_network([Softmax()], L2()).fused
    assert not some_network([Identity()], L2()).fused
    assert not some_network([ScaledSigmoid()], TwoClassKL()).fused


def test_a_network_survives_pickling_with_the_same_bits() -> None:
    network, parameters, x, d = usual()
    expected = network.gradient_sum(parameters, x, d).gradients.sha256()
    copy, weights = pickle.loads(pickle.dumps((network, parameters)))
    assert copy == network
    assert copy.gradient_sum(weights, x, d).gradients.sha256() == expected
