"""The parameter driver: owns the weights, divides once by T, updates, and decides about stopping.

each step     S, Div, T  ←  exact sums over the step's instances
              W ← W − (η/T)·S          (or what the optimiser makes of S and T)
each epoch    Loss = (1/T) Σ Div       over the epoch's instances, as they were met
              validation, a report, and the question whether to go on
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from sumgrad.cluster.compute.optimizer_step import ChunkedOptimizer
from sumgrad.cluster.compute.worker import Task
from sumgrad.cluster.errors import ClusterError, Diverged
from sumgrad.cluster.planning.plan import Plan
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.cluster.training.state import (
    EpochAccumulator,
    EpochReport,
    Evaluation,
    Snapshot,
    TrainingResult,
    TrainingState,
)
from sumgrad.cluster.training.stopping import StopReason, StopRule, update_progress
from sumgrad.model.network import Network
from sumgrad.model.optimizers import Optimizer
from sumgrad.model.schedules import Constant, Schedule
from sumgrad.model.validation import Array


@dataclass(frozen=True)
class TrainingConfig:
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


class _Stopped(Exception):
    """A stop was asked for at a step's boundary."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


class ParameterDriver:
    """Runs the steps of a job.

    Args:
        config: What to do with the sums.
        plan: Of the training rows.
        reducer: Who sums.
        validate: Whether there are validation rows to evaluate after each epoch.
        on_epoch: Told of each epoch.
        on_step: Told of each step: its number within the epoch, from 1.
        on_boundary: Shown the state after each step, and after each epoch with its report, when
            all of the epoch has been told of. It may take a snapshot.
        should_stop: Asked at each step's boundary; gives a reason to stop, or None.
    """

    def __init__(
        self,
        config: TrainingConfig,
        plan: Plan,
        reducer: GradientReducer,
        *,
        validate: bool = False,
        on_epoch: Callable[[EpochReport], None] = lambda _: None,
        on_step: Callable[[int], None] = lambda _: None,
        on_boundary: Callable[[TrainingState, EpochReport | None], None] = lambda *_: None,
        should_stop: Callable[[], StopReason | None] = lambda: None,
    ) -> None:
        self._recipe = config
        self._plan = plan
        self._exchange = reducer
        self._validate = validate
        self._on_epoch = on_epoch
        self._on_step = on_step
        self._on_boundary = on_boundary
        self._should_stop = should_stop

    def run(self, start: Array | Snapshot) -> TrainingResult:
        """Train until there is a reason to stop.

        Args:
            start: Initial parameters, flat, (N,), not changed; or where an earlier run was, which
                goes on as if nothing had been.
        """
        optimizer, reducer = self._recipe.optimizer, self._exchange
        if isinstance(start, Snapshot):
            state = TrainingState.restored(start, reducer)
        else:
            state = TrainingState.initial(start, optimizer, reducer)
        self._update = ChunkedOptimizer(optimizer, state.W.size)
        try:
            return self._run(state)
        finally:
            self._update.close()
            state.release(reducer)

    def _run(self, state: TrainingState) -> TrainingResult:
        try:
            while state.progress.reason is None:
                # Overflow is looked for where it is explained, and needs no warning of NumPy's.
                with np.errstate(all="ignore"):
                    report = self._epoch(state)
                self._on_epoch(report)
                self._on_boundary(state, report)
        except _Stopped as stopped:
            return TrainingResult.of(state, stopped.reason)
        except Diverged as failure:
            # Each of the reducer's vectors stays in its place, to be given back once.
            state.W, state.good = state.good, state.W
            return TrainingResult.of(state, StopReason.DIVERGED, failure)
        except ClusterError as failure:
            reason = self._should_stop()
            if reason is not None:
                return TrainingResult.of(state, reason)
            return TrainingResult.of(state, StopReason.FAILED, failure)
        return TrainingResult.of(state, state.progress.reason)

    def evaluate(self, source: str, W: Array) -> Evaluation:
        """Loss and accuracy over all rows of a source, by the same exact sums.

        Raises:
            ClusterError: A worker was lost or failed.
            ValueError: The source's plan is not one of all rows at once.
        """
        total = self._exchange.reduce(Task("evaluation", source), W)
        return Evaluation(
            total.divergence / total.count, float(total.correct / total.count), total.count
        )

    def _epoch(self, state: TrainingState) -> EpochReport:
        """The rest of the epoch that is under way, all of it as a rule."""
        number = state.progress.epoch + 1
        while state.epoch.steps < self._plan.steps_per_epoch:
            reason = self._should_stop()
            if reason is not None:
                raise _Stopped(reason)
            self._step(state, Task("gradient", "train", number, state.epoch.steps))
            self._on_step(state.epoch.steps)
            self._on_boundary(state, None)
        epoch = state.epoch
        self._expect_finite_weights(state, number, epoch.eta)
        report = EpochReport(
            epoch=number,
            step=state.step,
            train_loss=epoch.divergence / epoch.instances,
            validation=self._validation(state, number) if self._validate else None,
            gradient_norm=epoch.norms / self._plan.steps_per_epoch,
            eta=epoch.eta,
            instances=epoch.instances,
            seconds=epoch.seconds,
        )
        self._observe(state, report)
        state.report, state.epoch = report, EpochAccumulator()
        return report

    def _validation(self, state: TrainingState, epoch: int) -> Evaluation:
        """Loss and accuracy on the validation rows.

        Raises:
            Diverged: The loss is not finite.
        """
        seen = self.evaluate("validation", state.W)
        if not math.isfinite(seen.loss):
            raise self._diverged(epoch, state.step, "the validation loss", state.epoch.eta)
        return seen

    def _step(self, state: TrainingState, task: Task) -> None:
        """One sum and one update."""
        began = time.perf_counter()
        eta = self._recipe.eta * self._recipe.schedule.factor(state.step)
        total = self._exchange.reduce(task, state.W)
        S, T = total.gradient, total.count
        assert S is not None  # noqa: S101 - a gradient task always carries one
        norm = self._update.step(state.W, S, T, state.memory, eta, out=state.spare) / T
        # Nothing is updated until the vectors change places.
        self._expect_finite(total.divergence, norm, S, state, task, eta)
        state.W, state.spare, state.good = state.spare, state.good, state.W
        seconds = time.perf_counter() - began
        state.step += 1
        state.instances += T
        state.seconds += seconds
        epoch = state.epoch
        epoch.steps += 1
        epoch.divergence += total.divergence
        epoch.instances += T
        epoch.norms += norm
        epoch.eta = eta
        epoch.seconds += seconds

    def _observe(self, state: TrainingState, report: EpochReport) -> None:
        loss = report.validation.loss if report.validation else None
        state.progress = update_progress(self._recipe.stop, state.progress, report.train_loss, loss)
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
        bad = (f"the gradient of {name}" for name, g in gradients if not np.isfinite(g).all())
        what = "the norm of the gradient"
        what = "the loss" if not np.isfinite(divergence) else next(bad, what)
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
            hint = "lower optimizer.eta, or warm it up with optimizer.schedule.warmup"
        return Diverged(epoch, step, what, cause, hint=hint)
