"""The parameter driver: its updates against a hand-written loop, and every way that it ends."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from sumgrad.cluster.compute import chunks as blocks
from sumgrad.cluster.compute.optimizer_step import ChunkedOptimizer
from sumgrad.cluster.compute.worker import Task, Workload
from sumgrad.cluster.errors import CountMismatch, Diverged, WorkerLost
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import Plan, permutation
from sumgrad.cluster.planning.reduction import PartialSum
from sumgrad.cluster.reducers.base import GradientReducer, InlineReducer
from sumgrad.cluster.training.driver import ParameterDriver, TrainingConfig
from sumgrad.cluster.training.state import EpochReport, TrainingResult
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
    """y = Wx + b with L2, whose gradients can be written down by hand."""
    network = Network(x.shape[1], (Layer(1, make_activation("identity")),), L2(), "float64")
    plan = Plan(len(x), batch, 4, seed=9)
    source = ArraySource(x, d)
    plans = {"train": plan, "validation": Plan(len(x), None, 4)}
    return Workload(network, {"train": source, "validation": source}, plans), plan, network


@pytest.fixture
def line() -> tuple[Array, Array]:
    """Twenty-two points near a plane."""
    generator = np.random.default_rng(2)
    x = generator.standard_normal((22, 3))
    d = x @ np.array([[1.0], [-2.0], [0.5]]) + 0.7
    return x, d


def run(
    workload: Workload, plan: Plan, network: Network, stop: StopRule, **options: object
) -> TrainingResult:
    config = TrainingConfig(network, GradientDescent(), ETA, stop)
    driver = ParameterDriver(config, plan, InlineReducer(workload), **options)  # type: ignore[arg-type]
    return driver.run(np.zeros(network.layout.size))


@pytest.mark.parametrize("batch", [None, 8, 5])
def test_updates_are_those_of_the_lecture(batch: int | None, line: tuple[Array, Array]) -> None:
    """W ← W − (η/T)·Σ∇Div, written out instance by instance."""
    x, d = line
    W, b = np.zeros(3), 0.0
    for epoch in (1, 2, 3):
        order = np.arange(22) if batch is None else permutation(22, 9, epoch)
        for start in range(0, 22, batch or 22):
            rows = order[start : start + (batch or 22)]
            errors = [x[i] @ W + b - d[i, 0] for i in rows]
            W = W - ETA / len(rows) * sum(e * x[i] for e, i in zip(errors, rows, strict=True))
            b = b - ETA / len(rows) * sum(errors)
    workload, plan, network = linear_job(batch, x, d)
    outcome = run(workload, plan, network, StopRule(3))
    np.testing.assert_allclose(outcome.W, [*W, b], rtol=1e-12)
    assert outcome.instances == 3 * 22
    assert (outcome.epochs, outcome.steps) == (3, 3 * plan.steps_per_epoch)


def test_the_reported_loss_weighs_every_instance_alike(line: tuple[Array, Array]) -> None:
    """With η = 0 nothing moves, so batches of 8, 8 and 6 must give the full batch's loss."""
    x, d = line
    reports: list[EpochReport] = []
    for batch in (None, 8):
        workload, plan, network = linear_job(batch, x, d)
        config = TrainingConfig(network, GradientDescent(), 0.0, StopRule(1))
        reducer = InlineReducer(workload)
        ParameterDriver(config, plan, reducer, on_epoch=reports.append).run(np.zeros(4))
    expected = float(np.mean(0.5 * d**2))
    assert reports[0].train_loss == pytest.approx(expected, rel=1e-12)
    assert reports[1].train_loss == pytest.approx(expected, rel=1e-12)


def test_it_converges_and_says_so(line: tuple[Array, Array]) -> None:
    workload, plan, network = linear_job(None, *line)
    outcome = run(workload, plan, network, StopRule(1000, tolerance=1e-3, patience=2))
    assert outcome.reason is StopReason.CONVERGED
    assert outcome.epochs < 1000


def test_reports_carry_the_rate_the_norm_and_validation(line: tuple[Array, Array]) -> None:
    workload, plan, network = linear_job(8, *line)
    reports: list[EpochReport] = []
    config = TrainingConfig(
        network,
        Momentum(momentum=0.5),
        ETA,
        StopRule(3),
        schedule=StepDecay(step_size=3, decay_rate=0.5),
    )
    reducer = InlineReducer(workload)
    ParameterDriver(config, plan, reducer, validate=True, on_epoch=reports.append).run(np.zeros(4))
    assert [r.eta for r in reports] == [ETA, ETA / 2, ETA / 4]
    assert [r.step for r in reports] == [3, 6, 9]
    assert all(r.validation is not None and r.validation.count == 22 for r in reports)
    assert all(r.gradient_norm > 0 and r.instances == 22 and r.samples_per_s > 0 for r in reports)


def test_the_gradient_norm_of_a_full_batch_is_that_of_the_loss(line: tuple[Array, Array]) -> None:
    x, d = line
    workload, plan, network = linear_job(None, x, d)
    reports: list[EpochReport] = []
    run(workload, plan, network, StopRule(1), on_epoch=reports.append)
    gradient = np.append((-d * x).mean(axis=0), (-d).mean())
    assert reports[0].gradient_norm == pytest.approx(np.linalg.norm(gradient), rel=1e-12)


class Scripted(GradientReducer):
    """Gives losses that a test wrote down; the gradient is always 1."""

    workers = 1

    def __init__(self, validation: list[float], fail: Callable[[], None] = lambda: None) -> None:
        self._validation = iter(validation)
        self._fail = fail

    def reduce(self, task: Task, flat: Array) -> PartialSum:
        self._fail()
        if task.kind == "evaluation":
            return PartialSum(None, next(self._validation), 0, 1)
        return PartialSum(np.ones_like(flat), 1.0, 0, 1)

    def close(self) -> None:
        pass


@pytest.fixture
def tiny() -> tuple[Network, Plan]:
    return Network(1, (Layer(1, make_activation("identity")),), L2(), "float64"), Plan(1, None, 1)


def test_early_stopping_keeps_the_best_weights(tiny: tuple[Network, Plan]) -> None:
    network, plan = tiny
    rule = StopRule(50, early_stopping=EarlyStopping(patience=3))
    reducer = Scripted([5.0, 3.0, 4.0, 4.0, 4.0, 1.0])
    driver = ParameterDriver(
        TrainingConfig(network, GradientDescent(), 1.0, rule), plan, reducer, validate=True
    )
    outcome = driver.run(np.zeros(2))
    assert outcome.reason is StopReason.EARLY_STOPPING
    assert outcome.epochs == 5
    assert outcome.W.tolist() == [-2.0, -2.0], "the weights after epoch 2, not after epoch 5"
    assert outcome.report is not None
    assert (outcome.report.epoch, outcome.report.validation) != (5, None)
    assert outcome.report.epoch == 2


def test_a_stop_request_is_met_at_a_steps_boundary(line: tuple[Array, Array]) -> None:
    workload, plan, network = linear_job(8, *line)
    asked = iter([None, None, None, None, StopReason.INTERRUPTED])
    outcome = run(workload, plan, network, StopRule(9), should_stop=lambda: next(asked))
    assert outcome.reason is StopReason.INTERRUPTED
    assert (outcome.epochs, outcome.steps, outcome.instances) == (1, 4, 22 + 8)
    steps = run(workload, plan, network, StopRule(1))
    assert outcome.report is not None
    assert steps.report is not None
    assert outcome.report.train_loss == steps.report.train_loss


def test_a_rate_too_large_is_stopped_before_the_update_with_the_last_good_weights(
    line: tuple[Array, Array],
) -> None:
    x, d = line
    workload, plan, network = linear_job(None, x, d)
    config = TrainingConfig(network, GradientDescent(), 1e200, StopRule(50))
    outcome = ParameterDriver(config, plan, InlineReducer(workload)).run(np.zeros(4))
    assert outcome.reason is StopReason.DIVERGED
    assert isinstance(outcome.failure, Diverged)
    assert "learning rate is likely too large" in str(outcome.failure)
    assert np.isfinite(outcome.W).all()
    loss = workload.network.divergences(network.parameters(outcome.W), x, d).sum()
    assert np.isfinite(loss), "good weights are weights with a finite loss"


@pytest.mark.parametrize("where", ["x", "d"])
def test_poisoned_rows_stop_the_first_step(where: str, line: tuple[Array, Array]) -> None:
    x, d = (array.copy() for array in line)
    (x if where == "x" else d)[3, 0] = np.nan
    workload, plan, network = linear_job(None, x, d)
    outcome = run(workload, plan, network, StopRule(5))
    assert isinstance(outcome.failure, Diverged)
    assert (outcome.failure.epoch, outcome.failure.step) == (1, 1)
    assert "the loss is not finite" in str(outcome.failure)
    assert outcome.W.tolist() == [0.0] * 4
    assert outcome.steps == 0


def test_an_overflow_of_the_very_last_update_is_noticed(tiny: tuple[Network, Plan]) -> None:
    network, plan = tiny
    config = TrainingConfig(network, GradientDescent(), float("inf"), StopRule(1))
    outcome = ParameterDriver(config, plan, Scripted([])).run(np.zeros(2))
    assert isinstance(outcome.failure, Diverged)
    assert "a weight is not finite" in str(outcome.failure)
    assert outcome.W.tolist() == [0.0, 0.0]


def test_an_infinite_gradient_names_its_layer(tiny: tuple[Network, Plan]) -> None:
    network, plan = tiny

    class Infinite(Scripted):
        def reduce(self, task: Task, flat: Array) -> PartialSum:
            return PartialSum(np.array([1.0, np.inf]), 1.0, 0, 1)

    config = TrainingConfig(network, GradientDescent(), 1.0, StopRule(1))
    outcome = ParameterDriver(config, plan, Infinite([])).run(np.zeros(2))
    assert "the gradient of b1 is not finite" in str(outcome.failure)


def test_large_float32_gradients_are_not_taken_for_infinite(tiny: tuple[Network, Plan]) -> None:
    network, plan = replace(tiny[0], dtype="float32"), tiny[1]

    class Large(Scripted):
        def reduce(self, task: Task, flat: Array) -> PartialSum:
            return PartialSum(np.full_like(flat, 1e30), 1.0, 0, 1)

    reports: list[EpochReport] = []
    config = TrainingConfig(network, GradientDescent(), 1e-30, StopRule(1))
    driver = ParameterDriver(config, plan, Large([]), on_epoch=reports.append)
    assert driver.run(np.zeros(2, np.float32)).failure is None
    assert reports[0].gradient_norm == pytest.approx(2**0.5 * 1e30)


@pytest.mark.parametrize("size", [1e160, 1e300])
def test_large_float64_gradients_are_not_taken_for_infinite(
    tiny: tuple[Network, Plan], size: float
) -> None:
    """Their squares are."""
    network, plan = tiny

    class Large(Scripted):
        def reduce(self, task: Task, flat: Array) -> PartialSum:
            return PartialSum(np.array([size, -size]), 1.0, 0, 1)

    reports: list[EpochReport] = []
    config = TrainingConfig(network, GradientDescent(), 1e-300, StopRule(1))
    driver = ParameterDriver(config, plan, Large([]), on_epoch=reports.append)
    assert driver.run(np.zeros(2)).failure is None
    assert reports[0].gradient_norm == pytest.approx(2**0.5 * size)


def test_a_norm_that_no_number_holds_is_told_as_that(tiny: tuple[Network, Plan]) -> None:
    network, plan = tiny

    class Largest(Scripted):
        def reduce(self, task: Task, flat: Array) -> PartialSum:
            return PartialSum(np.full_like(flat, np.finfo(np.float64).max), 1.0, 0, 1)

    config = TrainingConfig(network, GradientDescent(), 1e-300, StopRule(1))
    outcome = ParameterDriver(config, plan, Largest([])).run(np.zeros(2))
    assert isinstance(outcome.failure, Diverged)
    assert "the norm of the gradient is not finite" in str(outcome.failure)


def test_the_norms_of_blocks_whose_sum_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "CHUNK_SIZE", 1)
    S = np.full(8, 1.2e154)
    update = ChunkedOptimizer(GradientDescent(), 8)
    norm = update.step(np.zeros(8), S, 1, {}, 0.0, out=np.empty(8))
    assert norm == pytest.approx(8**0.5 * 1.2e154)


@pytest.mark.parametrize("best", [True, False])
@pytest.mark.parametrize("loss", [np.inf, np.nan])
def test_a_validation_loss_that_is_not_finite_ends_the_run(
    tiny: tuple[Network, Plan], loss: float, best: bool
) -> None:
    network, plan = tiny
    rule = StopRule(50, early_stopping=EarlyStopping(patience=9) if best else None)
    driver = ParameterDriver(
        TrainingConfig(network, GradientDescent(), 1.0, rule),
        plan,
        Scripted([3.0, 4.0, 5.0, loss]),
        validate=True,
    )
    outcome = driver.run(np.zeros(2))
    assert outcome.reason is StopReason.DIVERGED
    assert isinstance(outcome.failure, Diverged)
    assert "the validation loss is not finite at epoch 4, step 4" in str(outcome.failure)
    assert outcome.W.tolist() == ([-1.0, -1.0] if best else [-3.0, -3.0])


def test_evaluating_by_a_plan_of_steps_is_refused(line: tuple[Array, Array]) -> None:
    """It would see the first step's rows alone."""
    workload, plan, network = linear_job(8, *line)
    config = TrainingConfig(network, GradientDescent(), ETA, StopRule(1))
    driver = ParameterDriver(config, plan, InlineReducer(workload))
    with pytest.raises(ValueError, match="the plan of 'train' is not one for evaluations"):
        driver.evaluate("train", np.zeros(4))
    assert driver.evaluate("validation", np.zeros(4)).count == 22


def test_a_lost_worker_ends_the_run_with_what_was_reached(tiny: tuple[Network, Plan]) -> None:
    network, plan = tiny
    calls = iter(range(100))

    def fail() -> None:
        if next(calls) == 3:
            raise WorkerLost(1, "summing")

    config = TrainingConfig(network, GradientDescent(), 1.0, StopRule(9))
    outcome = ParameterDriver(config, plan, Scripted([], fail)).run(np.zeros(2))
    assert outcome.reason is StopReason.FAILED
    assert isinstance(outcome.failure, WorkerLost)
    assert outcome.W.tolist() == [-3.0, -3.0]


def test_a_wrong_count_never_becomes_an_update(small_job: SmallJob) -> None:
    """The plan of the worker and the rows of the source disagree: refused, not averaged."""

    class Short(ArraySource):
        def read(self, rows: object, out: Array | None = None) -> tuple[Array, Array]:
            x, d = super().read(rows)  # type: ignore[arg-type]
            return x[:-1], d[:-1]  # type: ignore[return-value]

    full = small_job.workload.sources["full"]
    assert isinstance(full, ArraySource)
    plan = small_job.workload.plans["full"]
    workload = Workload(small_job.network, {"train": Short(full.x, full.d)}, {"train": plan})
    config = TrainingConfig(small_job.network, GradientDescent(), 1.0, StopRule(1))
    outcome = ParameterDriver(config, plan, InlineReducer(workload)).run(small_job.W)
    assert isinstance(outcome.failure, CountMismatch)
    assert outcome.W.tobytes() == small_job.W.tobytes()
