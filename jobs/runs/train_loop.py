"""The computation of a run: training from its start to its end, and the test rows after that."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sumgrad.cluster.errors import ClusterError, MicrobatchFailed
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.cluster.training.driver import ParameterDriver
from sumgrad.cluster.training.state import EpochReport, Evaluation, Snapshot, TrainingResult
from sumgrad.cluster.training.stopping import StopReason
from sumgrad.jobs.errors import Interrupted
from sumgrad.jobs.runs.build import build_initial_parameters
from sumgrad.jobs.runs.checkpointer import Checkpointer, CheckpointInterval
from sumgrad.jobs.runs.checkpoints import Checkpoint, CheckpointStore
from sumgrad.jobs.runs.job import TrainingJob
from sumgrad.jobs.runs.progress import Reporter
from sumgrad.jobs.runs.signals import EXIT_CODES, StopRequest
from sumgrad.jobs.runs.start import ActiveRun
from sumgrad.jobs.tracking.metadata import Status
from sumgrad.model.errors import SumgradError
from sumgrad.model.validation import Array


@dataclass(frozen=True)
class RunResult:
    """What came out of the computation.

    Attributes:
        outcome: Weights, and why training ended.
        test: Over the test rows; None without them, or if the run was cut short.
    """

    outcome: TrainingResult
    test: Evaluation | None = None

    @property
    def status(self) -> Status:
        """As MLflow has it."""
        if self.outcome.reason in EXIT_CODES:
            return "KILLED"
        return "FINISHED" if self.outcome.failure is None else "FAILED"

    @property
    def error(self) -> SumgradError | None:
        """What the command ends with, but for a finished run."""
        reason = self.outcome.reason
        if reason in EXIT_CODES:
            return Interrupted(f"the run was {reason}; it was saved", EXIT_CODES[reason])
        return self.outcome.failure


def run_training(
    job: TrainingJob,
    start: Checkpoint | None,
    reducer: GradientReducer,
    run: ActiveRun,
    reporter: Reporter,
    stop: StopRequest,
) -> RunResult:
    """Train, then evaluate the test rows unless the run was cut short.

    Args:
        job: What to train.
        start: Where to go on from.
        reducer: Computes the steps.
        run: Takes the metrics. A refusal by MLflow, which may come late, is raised at a step.
        reporter: Told of everything.
        stop: Asked at every step.
    """
    run.tracker.check()

    def on_step(step: int) -> None:
        run.tracker.check()
        reporter.step(step)

    def on_epoch(report: EpochReport) -> None:
        run.outbox.log(report.epoch, _metrics(report, accuracy=job.is_classification))
        reporter.epoch(report, accuracy=job.is_classification)

    checkpointer = _checkpointer(job, run, reporter)
    driver = ParameterDriver(
        job.training_config,
        job.plan,
        reducer,
        validate="validation" in job.workload.sources,
        on_epoch=on_epoch,
        on_step=on_step,
        on_boundary=checkpointer.boundary,
        should_stop=stop.requested,
    )
    for line in job.describe(reducer.workers):
        reporter.note(line)
    if start is not None:
        checkpointer.resume_from(start)
        reporter.note(f"going on after step {start.snapshot.step:,}")
    reporter.begin(job.spec.stop.max_epochs, job.plan.steps_per_epoch)
    beginning = build_initial_parameters(job.spec, job.network).flat
    try:
        outcome = _outcome(driver, beginning if start is None else start.snapshot, checkpointer)
    finally:
        reporter.end()
    outcome, test = _tested(job, driver, outcome)
    if isinstance(outcome.failure, MicrobatchFailed):
        place = job.data.describe(outcome.failure.source, outcome.failure.rows)
        outcome = replace(outcome, failure=outcome.failure.with_location(place))
    return RunResult(outcome, test)


def _tested(
    job: TrainingJob, driver: ParameterDriver, outcome: TrainingResult
) -> tuple[TrainingResult, Evaluation | None]:
    """Evaluate the test rows, unless there are none or the run was cut short."""
    cut_short = outcome.failure is not None or outcome.reason in EXIT_CODES
    if cut_short or "test" not in job.workload.sources:
        return outcome, None
    try:
        return outcome, driver.evaluate("test", outcome.W)
    except ClusterError as failure:
        return replace(outcome, reason=StopReason.FAILED, failure=failure), None


def _outcome(
    driver: ParameterDriver, beginning: Array | Snapshot, checkpointer: Checkpointer
) -> TrainingResult:
    """Train; whatever comes of it, checkpoints that are due are written."""
    try:
        outcome = driver.run(beginning)
    except Exception:
        checkpointer.close()
        raise
    except BaseException:
        # A second signal: the end is to come at once, and not after the disk.
        checkpointer.abandon()
        raise
    checkpointer.close(outcome.snapshot)
    return outcome


def _checkpointer(job: TrainingJob, run: ActiveRun, reporter: Reporter) -> Checkpointer:
    rule = job.spec.checkpoint

    @contextmanager
    def ready() -> Iterator[CheckpointStore | None]:
        """Provide the checkpoints once the metrics are on the disk.

        A run that resumes from the next checkpoint does not log these epochs again.
        """
        run.outbox.sync()
        yield run.directory.checkpoints(rule.keep)

    interval = CheckpointInterval(rule.every_steps, rule.every_seconds)
    return Checkpointer(ready, run.directory.record.signature, interval, reporter.note)


def _metrics(report: EpochReport, *, accuracy: bool) -> dict[str, float]:
    """An epoch as MLflow metrics."""
    metrics = {
        "train_loss": report.train_loss,
        "gradient_norm": report.gradient_norm,
        "learning_rate": report.eta,
        "samples_per_second": report.samples_per_s,
    }
    if report.validation is not None:
        metrics["validation_loss"] = report.validation.loss
        if accuracy:
            metrics["validation_accuracy"] = report.validation.accuracy
    return metrics
