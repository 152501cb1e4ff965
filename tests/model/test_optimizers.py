"""Optimisers against loops over single numbers, and against PyTorch's of the same names."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pytest

from sumgrad.model import OPTIMIZERS, Optimizer, OptionError, ShapeError, make_optimizer
from sumgrad.model.optimizers import Adam, AdamW, GradientDescent, Momentum, State
from tests.model.oracles import FLOATS, DType, Floats

SIZE, STEPS, ETA = 7, 20, 0.05

#: The options with which each registered optimiser is tested; every one occurs.
OPTIONS: Mapping[str, list[dict[str, float]]] = {
    "adam": [{}, {"weight_decay": 0.1, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-3}],
    "adamw": [{}, {"weight_decay": 0.2, "beta1": 0.7, "beta2": 0.9, "epsilon": 1e-4}],
    "gradient_descent": [{}, {"weight_decay": 0.1}],
    "momentum": [{}, {"momentum": 0.5, "weight_decay": 0.1}],
    "nesterov": [{}, {"momentum": 0.7, "weight_decay": 0.1}],
    "rmsprop": [{}, {"rho": 0.8, "epsilon": 1e-3, "weight_decay": 0.1}],
}
CASES = [(name, options) for name, choices in OPTIONS.items() for options in choices]


def problem(dtype: DType = np.float64) -> tuple[Floats, Floats, list[int]]:
    """Weights to start from, a gradient sum for each step, and how many instances are in each."""
    generator = np.random.default_rng(0)
    W, S = generator.standard_normal(SIZE), generator.standard_normal((STEPS, SIZE))
    T = [int(count) for count in generator.integers(1, 50, STEPS)]
    return W.astype(dtype), (S * np.array(T)[:, None]).astype(dtype), T


def run(optimizer: Optimizer, W: Floats, S: Floats, T: list[int]) -> Floats:
    """The weights after each step."""
    state, path = optimizer.init(W), []
    for step in range(len(S)):
        W, state = optimizer.update(W, S[step], T[step], state, ETA / (1 + step))
        path.append(W)
    return np.array(path)


def by_hand(name: str, options: Mapping[str, float]) -> Floats:
    """The same by a loop over single Python floats."""
    W, S, T = problem()
    decay = options.get("weight_decay", 0.01 if name == "adamw" else 0.0)
    momentum, rho = options.get("momentum", 0.9), options.get("rho", 0.99)
    beta1, beta2 = options.get("beta1", 0.9), options.get("beta2", 0.999)
    epsilon = options.get("epsilon", 1e-8)
    path = np.zeros((len(S), len(W)))
    for i in range(len(W)):
        w, first, second = float(W[i]), 0.0, 0.0
        for k in range(len(S)):
            eta = ETA / (1 + k)
            g = float(S[k, i]) / T[k]
            if name != "adamw":
                g += decay * w
            if name == "gradient_descent":
                w -= eta * g
            elif name == "momentum":
                first = momentum * first + g
                w -= eta * first
            elif name == "nesterov":
                first = momentum * first + g
                w -= eta * (g + momentum * first)
            elif name == "rmsprop":
                second = rho * second + (1 - rho) * g**2
                w -= eta * g / (math.sqrt(second) + epsilon)
            else:
                first = beta1 * first + (1 - beta1) * g
                second = beta2 * second + (1 - beta2) * g**2
                if name == "adamw":
                    w -= eta * decay * w
                mean = first / (1 - beta1 ** (k + 1))
                square = second / (1 - beta2 ** (k + 1))
                w -= eta * mean / (math.sqrt(square) + epsilon)
            path[k, i] = w
    return path


def check_path(optimizer: Optimizer, expected: Floats) -> None:
    """Every step of the way equals the expected one."""
    np.testing.assert_allclose(run(optimizer, *problem()), expected, rtol=1e-11)


@dataclass(frozen=True, kw_only=True)
class BiasedAdam(Adam):
    """Leaves out the correction of the bias."""

    def direction(self, g: Floats, state: State) -> tuple[Floats, State]:
        m = self.beta1 * state["mean"] + (1 - self.beta1) * g
        v = self.beta2 * state["square"] + (1 - self.beta2) * np.square(g)
        return m / (np.sqrt(v) + self.epsilon), {**state, "mean": m, "square": v}


@dataclass(frozen=True, kw_only=True)
class SummingDescent(GradientDescent):
    """Takes the sum for the mean."""

    def step(
        self, W: Floats, S: Floats, T: int, state: State, eta: float, out: Floats | None
    ) -> tuple[Floats, State]:
        return W - eta * S, state


@dataclass(frozen=True, kw_only=True)
class ChangingMomentum(Momentum):
    """Adds to the velocity in place."""

    def step(
        self, W: Floats, S: Floats, T: int, state: State, eta: float, out: Floats | None
    ) -> tuple[Floats, State]:
        state["velocity"] *= self.momentum
        state["velocity"] += S / T
        return W - eta * state["velocity"], state


def test_every_registered_optimizer_and_option_has_a_case() -> None:
    assert set(OPTIONS) == set(OPTIMIZERS)
    for name, kind in OPTIMIZERS.items():
        tested = {option for options in OPTIONS[name] for option in options}
        assert tested == {field.name for field in fields(kind)}


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_path_is_that_of_a_loop_over_numbers(name: str, options: dict[str, float]) -> None:
    check_path(make_optimizer(name, **options), by_hand(name, options))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_path_is_pytorchs(name: str, options: dict[str, float]) -> None:
    torch: Any = pytest.importorskip("torch")
    W, S, T = problem()
    weights = torch.tensor(W, requires_grad=True)
    decay = {"weight_decay": options.get("weight_decay", 0.01 if name == "adamw" else 0.0)}
    betas = {"betas": (options.get("beta1", 0.9), options.get("beta2", 0.999))}
    momentum = {"momentum": options.get("momentum", 0.9)}
    smooth = {"eps": options.get("epsilon", 1e-8)}
    optim = torch.optim
    makers: dict[str, Callable[[], Any]] = {
        "adam": lambda: optim.Adam([weights], **betas, **smooth, **decay),
        "adamw": lambda: optim.AdamW([weights], **betas, **smooth, **decay),
        "gradient_descent": lambda: optim.SGD([weights], **decay),
        "momentum": lambda: optim.SGD([weights], **momentum, **decay),
        "nesterov": lambda: optim.SGD([weights], nesterov=True, **momentum, **decay),
        "rmsprop": lambda: optim.RMSprop(
            [weights], alpha=options.get("rho", 0.99), **smooth, **decay
        ),
    }
    theirs = makers[name]()
    ours = run(make_optimizer(name, **options), W, S, T)
    for step in range(STEPS):
        theirs.param_groups[0]["lr"] = ETA / (1 + step)
        weights.grad = torch.tensor(S[step] / T[step])
        theirs.step()
        np.testing.assert_allclose(ours[step], weights.detach().numpy(), rtol=1e-10)


@pytest.mark.parametrize(
    ("wrong", "name"), [(BiasedAdam(), "adam"), (SummingDescent(), "gradient_descent")]
)
def test_a_wrong_path_is_caught(wrong: Optimizer, name: str) -> None:
    with pytest.raises(AssertionError):
        check_path(wrong, by_hand(name, {}))


@pytest.mark.parametrize("dtype", FLOATS)
def test_plain_gradient_descent_is_the_lectures_bit_for_bit(dtype: DType) -> None:
    W, S, T = problem(dtype)
    state = GradientDescent().init(W)
    assert state == {}
    for step in range(STEPS):
        eta = ETA / (1 + step)
        expected = W - (eta / T[step]) * S[step]
        W, state = GradientDescent().update(W, S[step], T[step], state, eta)
        assert W.tobytes() == expected.tobytes()
        assert state == {}


def check_no_argument_changes(optimizer: Optimizer) -> None:
    """Neither W, S nor the given state is modified."""
    W, S, T = problem()
    state = optimizer.init(W)
    for step in range(3):
        for array in (W, S, *state.values()):
            array.setflags(write=False)
        handed_in = dict(state)
        next_W, next_state = optimizer.update(W, S[step], T[step], state, ETA)
        assert state.keys() == handed_in.keys()
        assert all(state[key] is handed_in[key] for key in state)
        assert not np.shares_memory(next_W, W)
        W, state = next_W, next_state


@pytest.mark.parametrize(("name", "options"), CASES)
def test_no_argument_changes(name: str, options: dict[str, float]) -> None:
    check_no_argument_changes(make_optimizer(name, **options))


def test_a_changed_argument_is_caught() -> None:
    with pytest.raises(ValueError, match="read-only"):
        check_no_argument_changes(ChangingMomentum())


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_state_is_plain_arrays_that_can_be_saved(
    name: str, options: dict[str, float], dtype: DType
) -> None:
    optimizer = make_optimizer(name, **options)
    W, S, T = problem(dtype)
    state = optimizer.init(W)
    names = set(state)
    for step in range(4):
        assert {type(array) for array in state.values()} <= {np.ndarray}
        assert {array.dtype.kind for array in state.values()} <= {"f"}
        assert set(state) == names
        W, state = optimizer.update(W, S[step], T[step], state, ETA)
        assert type(W) is np.ndarray
        assert W.dtype == dtype
        assert all(array.dtype == dtype for array in state.values() if array.ndim)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_going_on_from_a_saved_state_gives_the_same_bits(
    name: str, options: dict[str, float]
) -> None:
    optimizer = make_optimizer(name, **options)
    W, S, T = problem(np.float32)
    state = optimizer.init(W)
    path = []
    for step in range(STEPS):
        saved = {
            key: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)
            for key, array in state.items()
        }
        W, state = optimizer.update(W, S[step], T[step], saved, ETA / (1 + step))
        path.append(W)
    assert np.array(path).tobytes() == run(optimizer, *problem(np.float32)).tobytes()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_components_are_taken_alone(name: str, options: dict[str, float]) -> None:
    optimizer = make_optimizer(name, **options)
    W, S, T = problem()
    whole = run(optimizer, W, S, T)
    for i in range(SIZE):
        np.testing.assert_array_equal(run(optimizer, W[[i]], S[:, [i]], T)[:, 0], whole[:, i])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_numpy_numbers_do_not_widen_float32(name: str) -> None:
    W, S, T = problem(np.float32)
    optimizer = make_optimizer(name, weight_decay=np.float64(0.1))
    plain = make_optimizer(name, weight_decay=0.1)
    narrow, _ = optimizer.update(W, S[0], T[0], optimizer.init(W), ETA)
    same, _ = plain.update(W, S[0], np.int64(T[0]), plain.init(W), np.float64(ETA))  # type: ignore[arg-type]
    assert narrow.dtype == same.dtype == np.float32
    assert narrow.tobytes() == same.tobytes()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_float32_is_near_float64(name: str) -> None:
    rough = run(make_optimizer(name), *problem(np.float32))
    np.testing.assert_allclose(rough, run(make_optimizer(name), *problem()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rate_of_zero_moves_nothing(name: str) -> None:
    W, S, T = problem()
    optimizer = make_optimizer(name)
    still, _ = optimizer.update(W, S[0], T[0], optimizer.init(W), 0.0)
    np.testing.assert_array_equal(still, W)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_gradient_of_zero_moves_nothing_without_decay(name: str) -> None:
    W, S, _ = problem()
    optimizer = make_optimizer(name, weight_decay=0.0)
    still, _ = optimizer.update(W, np.zeros_like(S[0]), 3, optimizer.init(W), ETA)
    np.testing.assert_array_equal(still, W)


def test_decay_of_adamw_does_not_pass_through_its_averages() -> None:
    W, S, T = problem()
    optimizer = AdamW(weight_decay=0.5)
    _, decayed = optimizer.update(W, S[0], T[0], optimizer.init(W), ETA)
    _, plain = Adam().update(W, S[0], T[0], Adam().init(W), ETA)
    assert {key: array.tobytes() for key, array in decayed.items()} == {
        key: array.tobytes() for key, array in plain.items()
    }


@pytest.mark.parametrize(
    ("S", "T", "message"),
    [
        (np.zeros(SIZE + 1), 1, "shape"),
        (np.zeros(1), 1, "shape"),
        (np.zeros(SIZE, np.float32), 1, "float32, expected float64"),
        (np.zeros(SIZE), 0, "T = 0"),
    ],
)
def test_an_invalid_sum_is_refused(S: Floats, T: int, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        GradientDescent().update(np.zeros(SIZE), S, T, {}, ETA)


@pytest.mark.parametrize("cls", [Optimizer, *OPTIMIZERS.values()])
def test_optimizers_are_frozen_and_take_keywords_only(cls: type[Optimizer]) -> None:
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert all(field.kw_only for field in fields(cls))


def test_sgd_means_gradient_descent() -> None:
    assert make_optimizer("sgd", weight_decay=0.5) == GradientDescent(weight_decay=0.5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adam", {"beta1": 1.0}, "beta1 is 1.0"),
        ("adam", {"beta2": -0.1}, "beta2 is -0.1"),
        ("adamw", {"epsilon": 0.0}, "epsilon is 0.0"),
        ("momentum", {"momentum": 1.0}, "momentum is 1.0"),
        ("nesterov", {"momentum": "0.9"}, "momentum is '0.9'"),
        ("rmsprop", {"rho": 1.0}, "rho is 1.0"),
        ("gradient_descent", {"weight_decay": -1}, "weight_decay is -1"),
        ("gradient_descent", {"weight_decay": math.nan}, "weight_decay is nan"),
        ("gradient_descent", {"momentum": 0.9}, "has no option 'momentum'"),
        ("sdg", {}, "unknown optimizer 'sdg'"),
    ],
)
def test_invalid_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make_optimizer(name, **options)
