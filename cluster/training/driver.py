"""The parameter driver: owns the weights, divides once by T, updates them and decides when to stop.

each step     S, Div, T  ←  sums over the step's instances
              W ← W − (η/T)·S          (or the optimizer's equation of S and T)
each epoch    Loss = (1/T) Σ Div       over the epoch's instances, each before its update
              validation, a report and the stopping criteria
"""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field

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
    """The update of the weights, given the sums, and the end of the run."""

    network: Network
    optimizer: Optimizer
    eta: float  #: The learning rate η.
    stop: StopRule
    schedule: Schedule = field(default_factory=Constant)  #: The factor of η at each step.


@dataclass(frozen=True)
class ParameterDriver:
    """The training loop of a job."""

    config: TrainingConfig
    plan: Plan  #: Plan over the training rows.
    reducer: GradientReducer
    _: KW_ONLY
    validate: bool = False  #: Whether to evaluate the validation rows after each epoch.
    classify: bool = True  #: Whether evaluations have an accuracy.
    # Called after each step and after each epoch, with a state of which they may take a snapshot.
    on_step: Callable[[TrainingState], None] = lambda _: None
    on_epoch: Callable[[TrainingState, EpochReport], None] = lambda *_: None
    #: Called before each step; returns a reason to stop, or None.
    should_stop: Callable[[], StopReason | None] = lambda: None

    def __post_init__(self) -> None:
        if self.config.stop.early_stopping is not None and not self.validate:
            raise ValueError("early stopping needs validation")

    def run(self, start: Array | Snapshot) -> TrainingResult:
        """Train from initial parameters, (N,), or resume from a snapshot with the same bits."""
        if isinstance(start, Snapshot):
            state = TrainingState.restore(start, self.reducer)
        else:
            state = TrainingState.initial(start, self.config.optimizer, self.reducer)
        try:
            chunked = ChunkedOptimizer(self.config.optimizer, state.W.size)
            with contextlib.closing(chunked) as optimizer:
                reason, failure = self._run(state, optimizer)
            return TrainingResult.from_state(state, reason, failure)
        finally:
            for vector in (state.W, state.next, state.last_finite):
                self.reducer.release(vector)

    def _run(
        self, state: TrainingState, optimizer: ChunkedOptimizer
    ) -> tuple[StopReason, ClusterError | None]:
        """Run the remaining epochs; return why the run ended, and the error if it failed."""
        try:
            while state.progress.reason is None:
                # The driver checks for overflow itself and explains it.
                with np.errstate(all="ignore"):
                    report = self._epoch(state, optimizer)
                if isinstance(report, StopReason):
                    return report, None
                self.on_epoch(state, report)
        except Diverged as failure:
            # A swap, because each of the reducer's vectors has to be released once.
            state.W, state.last_finite = state.last_finite, state.W
            return StopReason.DIVERGED, failure
        except ClusterError as failure:
            reason = self.should_stop()
            return (StopReason.FAILED, failure) if reason is None else (reason, None)
        return state.progress.reason, None

    def evaluate(self, source: str, W: Array) -> Evaluation:
        """Return loss and accuracy over all rows of a data source, from the same reduction."""
        total = self.reducer.reduce(Task("evaluation", source), W)
        accuracy = float(total.correct / total.count) if self.classify else None
        return Evaluation(total.divergence / total.count, accuracy, total.count)

    def _epoch(self, state: TrainingState, optimizer: ChunkedOptimizer) -> EpochReport | StopReason:
        """Run the rest of the current epoch; return its report, or why the caller stopped it."""
        number, epoch = state.progress.epoch + 1, state.epoch
        while epoch.steps < self.plan.steps_per_epoch:
            reason = self.should_stop()
            if reason is not None:
                return reason
            self._step(state, optimizer, Task("gradient", "train", number, epoch.steps))
            self.on_step(state)
        # No later sum of this epoch would show that the last update has overflowed.
        if not np.isfinite(state.W).all():
            raise _diverged(number, state.step, "a weight", epoch.eta)
        validation = None
        if self.validate:
            validation = self.evaluate("validation", state.W)
            if not math.isfinite(validation.loss):
                raise _diverged(number, state.step, "the validation loss", epoch.eta)
        report = EpochReport(
            epoch=number,
            step=state.step,
            train_loss=epoch.divergence / epoch.instances,
            validation=validation,
            gradient_norm=epoch.gradient_norms / self.plan.steps_per_epoch,
            eta=epoch.eta,
            instances=epoch.instances,
            seconds=epoch.seconds,
        )
        self._finish_epoch(state, report)
        return report

    def _step(self, state: TrainingState, optimizer: ChunkedOptimizer, task: Task) -> None:
        """Reduce one sum and update the weights."""
        began = time.perf_counter()
        eta = self.config.eta * self.config.schedule.factor(state.step)
        total = self.reducer.reduce(task, state.W)
        S, T = total.gradient, total.count
        assert S is not None  # noqa: S101 - a gradient task always returns one
        norm = optimizer.step(state.W, S, T, state.optimizer_state, eta, out=state.next) / T
        # The new weights become current in `finish_step` only, so the old ones are kept. The
        # optimizer's state has received the sum, but a run that has diverged is never resumed.
        if not (math.isfinite(total.divergence) and math.isfinite(norm)):
            what = self._find_non_finite(total.divergence, S)
            raise _diverged(task.epoch, state.step + 1, what, eta)
        state.finish_step(total, norm, eta, time.perf_counter() - began)

    def _find_non_finite(self, divergence: float, S: Array) -> str:
        """Return what is not finite in a step's sums, as a phrase."""
        if not math.isfinite(divergence):
            return "the loss"
        for name, gradient in self.config.network.parameters(S).items():
            if not np.isfinite(gradient).all():
                return f"the gradient of {name}"
        return "the norm of the gradient"

    def _finish_epoch(self, state: TrainingState, report: EpochReport) -> None:
        """Update the stopping criteria and the best weights."""
        stop = self.config.stop
        loss = report.validation.loss if report.validation else None
        state.progress = update_progress(stop, state.progress, report.train_loss, loss)
        if stop.early_stopping is not None and state.progress.best_epoch == report.epoch:
            state.best, state.best_report = state.W.copy(), report
        state.report, state.epoch = report, EpochAccumulator()


def _diverged(epoch: int, step: int, what: str, eta: float) -> Diverged:
    """Return the error with its likely cause."""
    if step == 1:
        cause = "the initial weights or the data are too large for this arithmetic"
        hint = "scale the features (data.scaling) or use model.dtype=float64"
    else:
        cause = f"the learning rate is likely too large (eta={eta:g} in this step)"
        hint = "lower optimizer.eta, or warm it up with optimizer.schedule.warmup"
    return Diverged(epoch, step, what, cause, hint=hint)
