"""The parameter driver: its updates against a hand-written loop, and every way that it ends."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from sumgrad.cluster.compute.worker import Task, Workload
from sumgrad.cluster.errors import CountMismatch, Diverged, WorkerLost
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import Plan, permutation
from sumgrad.cluster.planning.reduction import PartialSum
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.cluster.training.driver import ParameterDriver, TrainingConfig
from sumgrad.cluster.training.state import EpochReport, TrainingResult, TrainingState
from sumgrad.cluster.training.stopping import EarlyStopping, StopReason, StopRule
from sumgrad.model.activations import make_activation
from sumgrad.model.divergences import L2
from sumgrad.model.network import Layer, Network
from sumgrad.model.optimizers import GradientDescent, Momentum
from sumgrad.model.schedules import StepDecay
from sumgrad.model.validation import Array
from tests.cluster.small_job import SmallJob

ETA = 0.25


def linear_job(batch: int | None, x: Array, d: Array) -> tuple[Workload, Plan, Network]:
    """Return y = Wx + b with L2, whose gradients can be written down by hand."""
    network = Network(x.shape[1], (Layer(1, make_activation("identity")),), L2(), "float64")
    plan = Plan(len(x), batch, 4, seed=9)
    source = ArraySource(x, d)
    plans = {"train": plan, "validation": Plan(len(x), None, 4)}
    return Workload(network, {"train": source, "validation": source}, plans), plan, network


@pytest.fixture
def plane() -> tuple[Array, Array]:
    """Twenty-two points near a plane."""
    generator = np.random.default_rng(2)
    x = generator.standard_normal((22, 3))
    d = x @ np.array([[1.0], [-2.0], [0.5]]) + 0.7
    return x, d


def run(
    workload: Workload, plan: Plan, network: Network, stop: StopRule, **options: object
) -> TrainingResult:
    config = TrainingConfig(network, GradientDescent(), ETA, stop)
    with InlineReducer(workload) as reducer:
        driver = ParameterDriver(config, plan, reducer, **options)  # type: ignore[arg-type]
        return driver.run(np.zeros(network.layout.size))


def append_to(reports: list[EpochReport]) -> Callable[[TrainingState, EpochReport], None]:
    return lambda _, report: reports.append(report)


@pytest.mark.parametrize("batch", [None, 8, 5])
def test_updates_are_those_of_the_lecture(batch: int | None, plane: tuple[Array, Array]) -> None:
    """W ← W − (η/T)·Σ∇Div, written out instance by instance."""
    x, d = plane
    W, b = np.zeros(3), 0.0
    for epoch in (1, 2, 3):
        order = np.arange(22) if batch is None else permutation(22, 9, epoch)
        for start in range(0, 22, batch or 22):
            rows = order[start : start + (batch or 22)]
            errors = [x[i] @ W + b - d[i, 0] for i in rows]
            W = W - ETA / len(rows) * sum(e * x[i] for e, i in zip(errors, rows, strict=True))
            b = b - ETA / len(rows) * sum(errors)
    workload, plan, network = linear_job(batch, x, d)
    result = run(workload, plan, network, StopRule(3))
    np.testing.assert_allclose(result.W, [*W, b], rtol=1e-12)
    assert result.instances == 3 * 22
    assert (result.epochs, result.steps) == (3, 3 * plan.steps_per_epoch)
    assert 0 < result.seconds < 60


def test_the_reported_loss_weighs_every_instance_alike(plane: tuple[Array, Array]) -> None:
    """With η = 0 the weights do not move, so batches of 8, 8 and 6 must give the full loss."""
    x, d = plane
    for batch in (None, 8):
        workload, plan, network = linear_job(batch, x, d)
        reports: list[EpochReport] = []
        config = TrainingConfig(network, GradientDescent(), 0.0, StopRule(2))
        driver = ParameterDriver(config, plan, InlineReducer(workload), on_epoch=append_to(reports))
        driver.run(np.zeros(4))
        expected = pytest.approx(float(np.mean(0.5 * d**2)), rel=1e-12)
        assert [report.train_loss for report in reports] == [expected, expected]


def test_convergence_ends_the_run(plane: tuple[Array, Array]) -> None:
    workload, plan, network = linear_job(None, *plane)
    result = run(workload, plan, network, StopRule(1000, tolerance=1e-3, patience=2))
    assert result.reason is StopReason.CONVERGED
    assert result.epochs < 1000


def test_reports_contain_position_rate_norm_and_validation(plane: tuple[Array, Array]) -> None:
    workload, plan, network = linear_job(8, *plane)
    reports: list[EpochReport] = []
    schedule = StepDecay(step_size=3, decay_rate=0.5)
    config = TrainingConfig(network, Momentum(momentum=0.5), ETA, StopRule(3), schedule)
    reducer = InlineReducer(workload)
    driver = ParameterDriver(config, plan, reducer, validate=True, on_epoch=append_to(reports))
    driver.run(np.zeros(4))
    assert [r.eta for r in reports] == [ETA, ETA / 2, ETA / 4]
    assert [(r.epoch, r.step) for r in reports] == [(1, 3), (2, 6), (3, 9)]
    assert all(r.validation is not None and r.validation.count == 22 for r in reports)
    assert all(r.gradient_norm > 0 and r.instances == 22 and r.samples_per_s > 0 for r in reports)


def test_the_reported_norm_is_the_mean_over_the_steps(plane: tuple[Array, Array]) -> None:
    x, d = plane
    for batch in (None, 8):
        workload, plan, network = linear_job(batch, x, d)
        reports: list[EpochReport] = []
        config = TrainingConfig(network, GradientDescent(), 0.0, StopRule(1))
        driver = ParameterDriver(config, plan, InlineReducer(workload), on_epoch=append_to(reports))
        driver.run(np.zeros(4))
        order = np.arange(22) if batch is None else permutation(22, 9, 1)
        norms = []
        for start in range(0, 22, batch or 22):
            rows = order[start : start + (batch or 22)]
            gradient = np.append((-d[rows] * x[rows]).mean(axis=0), (-d[rows]).mean())
            norms.append(np.linalg.norm(gradient))
        assert reports[0].gradient_norm == pytest.approx(np.mean(norms), rel=1e-12)


def test_callbacks_come_in_the_order_of_the_steps(plane: tuple[Array, Array]) -> None:
    workload, plan, network = linear_job(8, *plane)
    calls: list[str] = []

    result = run(
        workload,
        plan,
        network,
        StopRule(1),
        on_step=lambda state: calls.append(f"step {state.step}"),
        on_epoch=lambda state, report: calls.append(f"epoch {report.epoch} {state.step}"),
    )
    assert result.steps == 3
    assert calls == ["step 1", "step 2", "step 3", "epoch 1 3"]


class ScriptedReducer(GradientReducer):
    """Returns the same gradient in every step, and the validation losses that a test gives.

    Args:
        validation: Divergence of each evaluation.
        gradient: The gradient of each step; None for ones.
        fail: Called before each reduction.
        correct, count: Correctly classified and all instances of an evaluation.
    """

    num_threads = 1

    def __init__(
        self,
        *,
        validation: list[float] | None = None,
        gradient: Array | None = None,
        fail: Callable[[], None] = lambda: None,
        correct: int = 0,
        count: int = 1,
    ) -> None:
        self._validation = iter(validation or [])
        self._gradient = gradient
        self._fail = fail
        self._correct, self._count = correct, count
        self.copies: list[int] = []

    def shared_copy(self, like: Array) -> Array:
        copy = like.copy()
        self.copies.append(id(copy))
        return copy

    def release(self, vector: Array) -> None:
        self.copies.remove(id(vector))

    def reduce(self, task: Task, flat: Array) -> PartialSum:
        self._fail()
        if task.kind == "evaluation":
            return PartialSum(None, next(self._validation), self._correct, self._count)
        gradient = np.ones_like(flat) if self._gradient is None else self._gradient
        return PartialSum(gradient, 1.0, 0, 1)

    def close(self) -> None:
        pass


def run_scripted(
    reducer: ScriptedReducer,
    stop: StopRule = StopRule(1),  # noqa: B008 - it is frozen
    *,
    eta: float = 1.0,
    dtype: str = "float64",
    steps_per_epoch: int = 1,
    **options: object,
) -> TrainingResult:
    """Train one weight and one bias from zero."""
    network = Network(1, (Layer(1, make_activation("identity")),), L2(), dtype)
    config = TrainingConfig(network, GradientDescent(), eta, stop)
    plan = Plan(steps_per_epoch, 1, 1)
    driver = ParameterDriver(config, plan, reducer, **options)  # type: ignore[arg-type]
    result = driver.run(np.zeros(2, dtype))
    assert reducer.copies == [], "every vector is released once"
    return result


def test_an_evaluation_divides_by_the_number_of_instances(plane: tuple[Array, Array]) -> None:
    workload, plan, network = linear_job(8, *plane)
    config = TrainingConfig(network, GradientDescent(), ETA, StopRule(1))
    reducer = ScriptedReducer(validation=[6.0], correct=3, count=4)
    seen = ParameterDriver(config, plan, reducer).evaluate("validation", np.zeros(4))
    assert (seen.loss, seen.accuracy, seen.count) == (1.5, 0.75, 4)
    reducer = ScriptedReducer(validation=[6.0], correct=0, count=4)
    regression = ParameterDriver(config, plan, reducer, classify=False)
    assert regression.evaluate("validation", np.zeros(4)).accuracy is None
    driver = ParameterDriver(config, plan, InlineReducer(workload))
    assert driver.evaluate("validation", np.zeros(4)).count == 22


def test_early_stopping_keeps_the_best_weights() -> None:
    rule = StopRule(50, early_stopping=EarlyStopping(patience=3))
    reducer = ScriptedReducer(validation=[5.0, 3.0, 4.0, 4.0, 4.0, 1.0])
    result = run_scripted(reducer, rule, validate=True)
    assert result.reason is StopReason.EARLY_STOPPING
    assert result.epochs == 5
    assert result.W.tolist() == [-2.0, -2.0], "the weights after epoch 2, not after epoch 5"
    assert result.report is not None
    assert result.report.epoch == 2
    assert result.report.validation is not None
    assert result.report.validation.loss == 3.0


def test_early_stopping_without_validation_is_refused() -> None:
    rule = StopRule(50, early_stopping=EarlyStopping(patience=3))
    with pytest.raises(ValueError, match="early stopping needs validation"):
        run_scripted(ScriptedReducer(), rule)


def test_without_early_stopping_the_last_weights_are_kept() -> None:
    result = run_scripted(ScriptedReducer(validation=[3.0, 5.0]), StopRule(2), validate=True)
    assert result.W.tolist() == [-2.0, -2.0]
    assert result.report is not None
    assert result.report.epoch == 2


def test_a_stop_request_ends_the_run_at_a_step_boundary(plane: tuple[Array, Array]) -> None:
    workload, plan, network = linear_job(8, *plane)
    replies = iter([None, None, None, None, StopReason.INTERRUPTED])
    result = run(workload, plan, network, StopRule(9), should_stop=lambda: next(replies))
    assert result.reason is StopReason.INTERRUPTED
    assert (result.epochs, result.steps, result.instances) == (1, 4, 22 + 8)
    one_epoch = run(workload, plan, network, StopRule(1))
    assert result.report is not None
    assert one_epoch.report is not None
    assert result.report.train_loss == one_epoch.report.train_loss


def test_a_learning_rate_that_is_too_large_keeps_the_last_finite_weights(
    plane: tuple[Array, Array],
) -> None:
    x, d = plane
    workload, plan, network = linear_job(8, x, d)
    config = TrainingConfig(network, GradientDescent(), 1e200, StopRule(50))
    result = ParameterDriver(config, plan, InlineReducer(workload)).run(np.zeros(4))
    assert result.reason is StopReason.DIVERGED
    assert isinstance(result.failure, Diverged)
    assert (result.failure.epoch, result.failure.step) == (1, 2)
    assert "learning rate is likely too large (eta=1e+200 in this step)" in str(result.failure)
    assert np.isfinite(result.W).all()
    assert np.isfinite(network.divergences(network.parameters(result.W), x, d).sum())


@pytest.mark.parametrize("where", ["x", "d"])
def test_nan_in_the_data_ends_the_first_step(where: str, plane: tuple[Array, Array]) -> None:
    x, d = (array.copy() for array in plane)
    (x if where == "x" else d)[3, 0] = np.nan
    result = run(*linear_job(None, x, d), StopRule(5))
    assert isinstance(result.failure, Diverged)
    assert (result.failure.epoch, result.failure.step) == (1, 1)
    assert "the loss is not finite" in str(result.failure)
    assert "data are too large" in str(result.failure)
    assert result.W.tolist() == [0.0] * 4
    assert result.steps == 0


def test_an_overflow_in_the_last_update_is_noticed() -> None:
    result = run_scripted(ScriptedReducer(), eta=9e307, steps_per_epoch=2)
    assert isinstance(result.failure, Diverged)
    assert "a weight is not finite at epoch 1, step 2" in str(result.failure)
    assert result.W.tolist() == [-9e307, -9e307]


@pytest.mark.parametrize(
    ("gradient", "what"),
    [
        ([1.0, np.inf], "the gradient of b1"),
        ([np.nan, 1.0], "the gradient of W1"),
        ([np.finfo(np.float64).max] * 2, "the norm of the gradient"),
    ],
)
def test_a_gradient_that_is_not_finite_is_named(gradient: list[float], what: str) -> None:
    result = run_scripted(ScriptedReducer(gradient=np.array(gradient)), eta=1e-300)
    assert isinstance(result.failure, Diverged)
    assert str(result.failure).startswith(f"{what} is not finite at epoch 1, step 1: ")
    assert result.W.tolist() == [0.0, 0.0]


def test_the_weights_before_a_gradient_that_is_not_finite_are_kept() -> None:
    """Those whose gradient it is have a finite loss, but may hold an infinity themselves."""
    gradient = np.ones(2)
    calls = itertools.count(1)

    def overflow() -> None:
        gradient[1] = np.inf if next(calls) == 3 else 1.0

    result = run_scripted(ScriptedReducer(gradient=gradient, fail=overflow), steps_per_epoch=5)
    assert (result.reason, result.steps) == (StopReason.DIVERGED, 2)
    assert result.W.tolist() == [-1.0, -1.0]


@pytest.mark.parametrize(
    ("dtype", "size", "eta"), [("float32", 1e30, 1e-30), ("float64", 1e300, 1e-300)]
)
def test_a_large_finite_gradient_is_accepted(dtype: str, size: float, eta: float) -> None:
    """Its square overflows."""
    reports: list[EpochReport] = []
    reducer = ScriptedReducer(gradient=np.array([size, -size], dtype))
    result = run_scripted(reducer, eta=eta, dtype=dtype, on_epoch=append_to(reports))
    assert result.failure is None
    assert reports[0].gradient_norm == pytest.approx(2**0.5 * size)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("loss", [np.inf, np.nan])
def test_a_validation_loss_that_is_not_finite_ends_the_run(loss: float, early: bool) -> None:
    rule = StopRule(50, early_stopping=EarlyStopping(patience=9) if early else None)
    reducer = ScriptedReducer(validation=[3.0, 4.0, 5.0, loss])
    result = run_scripted(reducer, rule, validate=True, steps_per_epoch=2)
    assert result.reason is StopReason.DIVERGED
    assert "the validation loss is not finite at epoch 4, step 8" in str(result.failure)
    assert result.W.tolist() == ([-2.0, -2.0] if early else [-7.0, -7.0])


def fail_at(call: int) -> Callable[[], None]:
    calls = iter(range(100))

    def fail() -> None:
        if next(calls) == call:
            raise WorkerLost(1, "summing")

    return fail


def test_a_lost_worker_ends_the_run_with_the_weights_so_far() -> None:
    result = run_scripted(ScriptedReducer(fail=fail_at(3)), StopRule(9))
    assert result.reason is StopReason.FAILED
    assert isinstance(result.failure, WorkerLost)
    assert result.W.tolist() == [-3.0, -3.0]
    assert result.snapshot is not None


def test_a_failure_during_a_requested_stop_is_no_failure() -> None:
    replies = iter([None, None, StopReason.TERMINATED])
    reducer = ScriptedReducer(fail=fail_at(1))
    result = run_scripted(reducer, StopRule(9), should_stop=lambda: next(replies))
    assert (result.reason, result.failure) == (StopReason.TERMINATED, None)
    assert result.W.tolist() == [-1.0, -1.0]


def test_a_wrong_count_of_instances_never_becomes_an_update(small_job: SmallJob) -> None:
    full = small_job.workload.sources["full"]
    assert isinstance(full, ArraySource)
    plan = small_job.workload.plans["full"]
    short = ArraySource(full.x[:-1], full.d[:-1])
    workload = replace(small_job.workload, sources={"train": short}, plans={"train": plan})
    config = TrainingConfig(small_job.network, GradientDescent(), 1.0, StopRule(1))
    result = ParameterDriver(config, plan, InlineReducer(workload)).run(small_job.W)
    assert isinstance(result.failure, CountMismatch)
    assert result.W.tobytes() == small_job.W.tobytes()
