"""The parameter driver: owns the weights, divides once by T, updates, and decides about stopping.

each step     S, Div, T  ←  exact sums over the step's instances
              W ← W − (η/T)·S          (or what the optimiser makes of S and T)
each epoch    Loss = (1/T) Σ Div       over the epoch's instances, as they were met
              validation, a report, and the question whether to go on
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from cluster.convergence import Progress, StopReason, StopRule, observe
from cluster.errors import ClusterError, Diverged
from cluster.exchange import Exchange
from cluster.plan import Plan
from cluster.tree import PartialSum
from cluster.update import Update
from cluster.worker import Task
from model.checks import Array
from model.network import Network
from model.optimizers import Optimizer, State
from model.schedules import Constant, Schedule


@dataclass(frozen=True)
class Evaluation:
    """Over all rows of a source.

    Attributes:
        loss: (1/T) Σ Div.
        accuracy: The share of instances put into the right class; meaningless for a regression.
        count: T.
    """

    loss: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class EpochReport:
    """What is told of an epoch.

    Attributes:
        epoch: From 1.
        step: Steps of the run so far.
        train_loss: Mean divergence over the epoch's instances, each met before its update.
        validation: None without validation rows.
        gradient_norm: ‖∇Loss‖ of a step, on average over the epoch's steps.
        eta: The learning rate of the last step.
        instances: Instances summed in this epoch.
        seconds: Of the epoch's steps, validation not counted.
    """

    epoch: int
    step: int
    train_loss: float
    validation: Evaluation | None
    gradient_norm: float
    eta: float
    instances: int
    seconds: float

    @property
    def samples_per_s(self) -> float:
        """Instances summed in a second."""
        return self.instances / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Recipe:
    """How the weights are to be found, given sums.

    Args:
        network: Its layout and dtype.
        optimizer: The update.
        eta: The learning rate η.
        schedule: What η is multiplied with.
        stop: When to end.
    """

    network: Network
    optimizer: Optimizer
    eta: float
    stop: StopRule
    schedule: Schedule = field(default_factory=Constant)


@dataclass
class TrainingState:
    """Everything that the next step depends on, so that a run could go on from it elsewhere.

    Attributes:
        W: The weights, flat.
        spare: Where the next weights will be written.
        memory: Of the optimiser; written to by each update.
        step: Steps done.
        instances: Instances summed in all steps.
        seconds: Spent on steps.
        progress: Of the criterion.
        good: The last weights whose loss was seen to be finite; with each update the three take
            each other's places.
        best: The weights of the best validation loss, where that is asked for.
        best_report: The report of that epoch.
    """

    W: Array
    spare: Array
    memory: State
    good: Array
    step: int = 0
    instances: int = 0
    seconds: float = 0.0
    progress: Progress = field(default_factory=Progress)
    best: Array | None = None
    best_report: EpochReport | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        W: The weights to keep: the best, or the last good ones.
        reason: Why it ended.
        report: Of the epoch that W is from; None if no epoch was completed.
        epochs: Epochs completed.
        steps: Updates made.
        instances: Instances summed.
        seconds: Spent on steps, evaluation not counted.
        failure: The error that ended it, where one did.
    """

    W: Array
    reason: StopReason
    report: EpochReport | None
    epochs: int
    steps: int
    instances: int
    seconds: float
    failure: ClusterError | None = None


class _Stopped(Exception):
    """A stop was asked for at a step's boundary."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


class ParameterDriver:
    """Runs the steps of a job.

    Args:
        recipe: What to do with the sums.
        plan: Of the training rows.
        exchange: Who sums.
        validate: Whether there are validation rows to evaluate after each epoch.
        on_epoch: Told of each epoch.
        on_step: Told of each step: its number within the epoch, from 1.
        should_stop: Asked at each step's boundary; gives a reason to stop, or None.
    """

    def __init__(
        self,
        recipe: Recipe,
        plan: Plan,
        exchange: Exchange,
        *,
        validate: bool = False,
        on_epoch: Callable[[EpochReport], None] = lambda _: None,
        on_step: Callable[[int], None] = lambda _: None,
        should_stop: Callable[[], StopReason | None] = lambda: None,
    ) -> None:
        self._recipe = recipe
        self._plan = plan
        self._exchange = exchange
        self._validate = validate
        self._on_epoch = on_epoch
        self._on_step = on_step
        self._should_stop = should_stop

    def run(self, W: Array) -> Outcome:
        """Train from these weights until there is a reason to stop.

        Args:
            W: Initial parameters, flat, (N,); not changed.
        """
        W, spare, good = vectors = [self._exchange.vector(W) for _ in range(3)]
        state = TrainingState(W, spare, self._recipe.optimizer.init(W), good)
        self._update = Update(self._recipe.optimizer, W.size)
        try:
            return self._run(state)
        finally:
            self._update.close()
            for vector in vectors:
                self._exchange.release(vector)

    def _run(self, state: TrainingState) -> Outcome:
        report: EpochReport | None = None
        try:
            while state.progress.reason is None:
                # Overflow is looked for where it is explained, and needs no warning of NumPy's.
                with np.errstate(all="ignore"):
                    report = self._epoch(state)
                self._on_epoch(report)
        except _Stopped as stopped:
            return _outcome(state, report, stopped.reason)
        except Diverged as failure:
            state.W = state.good
            return _outcome(state, report, StopReason.DIVERGED, failure)
        except ClusterError as failure:
            return _outcome(state, report, StopReason.FAILED, failure)
        return _outcome(state, report, state.progress.reason)

    def evaluate(self, source: str, W: Array) -> Evaluation:
        """Loss and accuracy over all rows of a source, by the same exact sums."""
        total = self._exchange.total(Task("evaluation", source), W)
        return Evaluation(
            total.divergence / total.count, float(total.correct / total.count), total.count
        )

    def _epoch(self, state: TrainingState) -> EpochReport:
        epoch = state.progress.epoch + 1
        seconds_before = state.seconds
        divergence, count, norms, eta = 0.0, 0, 0.0, 0.0
        for step in range(self._plan.steps_per_epoch):
            reason = self._should_stop()
            if reason is not None:
                raise _Stopped(reason)
            eta = self._recipe.eta * self._recipe.schedule.factor(state.step)
            total, norm = self._step(state, Task("gradient", "train", epoch, step), eta)
            divergence += total.divergence
            count += total.count
            norms += norm
            self._on_step(step + 1)
        self._expect_finite_weights(state, epoch, eta)
        report = EpochReport(
            epoch=epoch,
            step=state.step,
            train_loss=divergence / count,
            validation=self.evaluate("validation", state.W) if self._validate else None,
            gradient_norm=norms / self._plan.steps_per_epoch,
            eta=eta,
            instances=count,
            seconds=state.seconds - seconds_before,
        )
        self._observe(state, report)
        return report

    def _step(self, state: TrainingState, task: Task, eta: float) -> tuple[PartialSum, float]:
        """One sum and one update; gives the sum and ‖S/T‖."""
        began = time.perf_counter()
        total = self._exchange.total(task, state.W)
        S, T = total.gradient, total.count
        assert S is not None  # noqa: S101 - a gradient task always carries one
        norm = self._update.apply(state.W, S, T, state.memory, eta, out=state.spare) / T
        # Nothing is updated until the vectors change places.
        self._expect_finite(total.divergence, norm, S, state, task, eta)
        state.W, state.spare, state.good = state.spare, state.good, state.W
        state.step += 1
        state.instances += T
        state.seconds += time.perf_counter() - began
        return total, norm

    def _observe(self, state: TrainingState, report: EpochReport) -> None:
        loss = report.validation.loss if report.validation else None
        state.progress = observe(self._recipe.stop, state.progress, report.train_loss, loss)
        keeps_best = self._recipe.stop.early_stopping is not None
        if keeps_best and state.progress.best_epoch == report.epoch:
            state.best, state.best_report = state.W.copy(), report

    def _expect_finite(
        self,
        divergence: float,
        norm: float,
        S: Array,
        state: TrainingState,
        task: Task,
        eta: float,
    ) -> None:
        """Raise unless loss and gradient are finite numbers.

        Raises:
            Diverged: They are not; the weights are those before the step.
        """
        if np.isfinite(divergence) and np.isfinite(norm):
            return
        gradients = self._recipe.network.parameters(S).items()
        bad = [name for name, array in gradients if not np.isfinite(array).all()]
        what = "the loss" if not np.isfinite(divergence) else f"the gradient of {bad[0]}"
        raise self._diverged(task.epoch, state.step + 1, what, eta)

    def _expect_finite_weights(self, state: TrainingState, epoch: int, eta: float) -> None:
        """The last update of an epoch is followed by no sum that would notice it."""
        if not np.isfinite(state.W).all():
            raise self._diverged(epoch, state.step, "a weight", eta)

    def _diverged(self, epoch: int, step: int, what: str, eta: float) -> Diverged:
        if step == 1:
            cause = "the initial weights or the data are too large for this arithmetic"
            hint = "scale the features (data.scaling) or use model.dtype=float64"
        else:
            cause = f"the learning rate is likely too large (eta={eta:g} in this step)"
            hint = "lower optimizer.eta, or warm it up with optimizer.schedule.warm_up"
        return Diverged(epoch, step, what, cause, hint=hint)


def _outcome(
    state: TrainingState,
    report: EpochReport | None,
    reason: StopReason,
    failure: ClusterError | None = None,
) -> Outcome:
    best = state.best is not None
    return Outcome(
        W=(state.best if state.best is not None else state.W).copy(),
        reason=reason,
        report=state.best_report if best else report,
        epochs=state.progress.epoch,
        steps=state.step,
        instances=state.instances,
        seconds=state.seconds,
        failure=failure,
    )
