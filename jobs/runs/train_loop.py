"""The computation of a run: training, and then the evaluation of the test rows."""

import logging
from dataclasses import dataclass, replace

from sumgrad.cluster.errors import ClusterError, MicrobatchFailed
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.cluster.training.driver import ParameterDriver
from sumgrad.cluster.training.state import (
    EpochReport,
    Evaluation,
    Snapshot,
    TrainingResult,
    TrainingState,
)
from sumgrad.cluster.training.stopping import RESUMABLE, StopReason
from sumgrad.jobs.errors import Interrupted, TrackingError
from sumgrad.jobs.runs.build import TrainingJob, build_initial_parameters
from sumgrad.jobs.runs.checkpointer import Checkpointer
from sumgrad.jobs.runs.progress import Reporter
from sumgrad.jobs.runs.signals import EXIT_CODES, StopRequest
from sumgrad.jobs.runs.start import ActiveRun
from sumgrad.jobs.tracking.metadata import Status
from sumgrad.model.errors import SumgradError
from sumgrad.model.validation import Array

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """The weights, why training ended, and figures over the test rows unless it ended early."""

    training: TrainingResult
    test: Evaluation | None = None

    @property
    def status(self) -> Status:
        """The run's status in MLflow."""
        if self.training.reason in EXIT_CODES:
            return "KILLED"
        return "FINISHED" if self.training.failure is None else "FAILED"

    @property
    def can_resume(self) -> bool:
        """Whether resuming makes sense."""
        return self.training.reason in RESUMABLE

    @property
    def error(self) -> SumgradError | None:
        """The error to report; None for a finished run."""
        reason = self.training.reason
        if reason in EXIT_CODES:
            return Interrupted(f"the run was {reason}; it was saved", EXIT_CODES[reason])
        return self.training.failure


def run_training(
    run: ActiveRun, reducer: GradientReducer, reporter: Reporter, stop: StopRequest
) -> RunResult:
    """Train from the run's checkpoint, if any, and evaluate the test rows unless it ended early.

    Raises:
        TrackingError: MLflow refuses the run, perhaps only after some steps.
    """
    run.tracker.raise_if_refused()
    job = run.job
    first: Array | Snapshot
    if run.checkpoint is None:
        first, first_step = build_initial_parameters(job.spec, job.network).flat, 0
    else:
        first, first_step = run.checkpoint.snapshot, run.checkpoint.snapshot.step
    checkpointer = Checkpointer(
        run.directory.checkpoints(job.spec.checkpoint.keep),
        run.directory.record.signature,
        job.spec.checkpoint,
        first_step,
        # A run that resumes from a checkpoint does not log the epochs before it again, so their
        # metrics have to be on the disk first.
        before_write=run.outbox.sync,
    )
    driver = _driver(run, reducer, reporter, stop, checkpointer)
    for line in job.describe(reducer.num_threads):
        _logger.info(line)
    if run.checkpoint is not None:
        _logger.info("resuming after step %s", f"{first_step:,}")
    reporter.begin(job.spec.stop.max_epochs, job.plan.steps_per_epoch, first_step)
    try:
        result = driver.run(first)
        # Also of a finished run: the evaluation of the test rows can fail, and is then resumed.
        checkpointer.close(result.snapshot)
    except Exception:
        # A second signal's SystemExit is no Exception, so it does not wait for the disk.
        checkpointer.close()
        raise
    finally:
        reporter.end()
    result, test = _evaluate_test_rows(job, driver, result, stop)
    if isinstance(result.failure, MicrobatchFailed):
        location = job.data.describe(result.failure.source, result.failure.rows)
        result = replace(result, failure=result.failure.with_location(location))
    return RunResult(result, test)


def _driver(
    run: ActiveRun,
    reducer: GradientReducer,
    reporter: Reporter,
    stop: StopRequest,
    checkpointer: Checkpointer,
) -> ParameterDriver:
    job = run.job

    def on_step(state: TrainingState) -> None:
        try:
            run.tracker.raise_if_refused()
        except TrackingError:
            # What was computed is kept: the checkpointer writes this when it is closed.
            checkpointer.add_snapshot(state)
            raise
        reporter.step(state.epoch.steps)
        checkpointer.on_step_boundary(state)

    def on_epoch(state: TrainingState, report: EpochReport) -> None:
        run.outbox.log(report.epoch, _metrics(report))
        reporter.epoch(report)
        checkpointer.on_step_boundary(state, is_best=report.epoch == state.progress.best_epoch)

    return ParameterDriver(
        job.training_config,
        job.plan,
        reducer,
        validate="validation" in job.workload.sources,
        classify=job.spec.task == "classification",
        on_step=on_step,
        on_epoch=on_epoch,
        should_stop=lambda: stop.reason,
    )


def _evaluate_test_rows(
    job: TrainingJob, driver: ParameterDriver, result: TrainingResult, stop: StopRequest
) -> tuple[TrainingResult, Evaluation | None]:
    """Evaluate the test rows, unless there are none or training ended early."""
    ended_early = result.failure is not None or result.reason in EXIT_CODES
    if ended_early or "test" not in job.workload.sources:
        return result, None
    try:
        return result, driver.evaluate("test", result.W)
    except ClusterError as failure:
        if stop.reason is not None:
            return replace(result, reason=stop.reason), None
        return replace(result, reason=StopReason.FAILED, failure=failure), None


def _metrics(report: EpochReport) -> dict[str, float]:
    """Return an epoch's figures as MLflow metrics."""
    return {
        "train_loss": report.train_loss,
        "gradient_norm": report.gradient_norm,
        "learning_rate": report.eta,
        "samples_per_second": report.samples_per_s,
        **evaluation_metrics("validation", report.validation),
    }


def evaluation_metrics(split: str, evaluation: Evaluation | None) -> dict[str, float]:
    """Return the figures over the rows of a split as MLflow metrics."""
    if evaluation is None:
        return {}
    figures = {f"{split}_loss": evaluation.loss, f"{split}_accuracy": evaluation.accuracy}
    return {name: value for name, value in figures.items() if value is not None}
