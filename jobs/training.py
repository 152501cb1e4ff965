"""A training run from the spec to the summary: data, workers, driver, tracking, saved model.

What takes long to start goes on side by side: MLflow and the data in threads, Ray in the main one.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cluster.driver import ParameterDriver
from cluster.exchange import Exchange, InlineExchange
from cluster.ray_session import WORKER_ENVIRONMENT, expect_answer, ray_session, usable_cpus
from cluster.state import EpochReport, Evaluation, Outcome
from jobs.anchoring import anchored
from jobs.assembly import Job, assemble
from jobs.background import in_background
from jobs.building import build_initial_parameters
from jobs.data.prepare import prepare
from jobs.errors import Interrupted, SpecError
from jobs.rejection import Rejection, measure_rejection
from jobs.reporting import Reporter
from jobs.run_facts import example_frame, run_facts
from jobs.saved_model import SavedModel, save_model
from jobs.signals import EXIT_CODES, StopRequest
from jobs.spec import JobSpec
from jobs.summary import Summary
from jobs.tracking import RunFacts, RunTracker, open_store, redact
from jobs.tracking.run import Status
from model.errors import SumgradError
from model.parameters import weights_sha256


@dataclass(frozen=True)
class _Result:
    """What came out of the computation.

    Attributes:
        outcome: Weights, and why training ended.
        test: Over the test rows; None without them, or if the run was cut short.
    """

    outcome: Outcome
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


@dataclass(frozen=True)
class _Kept:
    """What is left of a run on disk, and what its model does with non-digits."""

    folder: Path
    rejection: Rejection | None = field(default=None)


def train(spec: JobSpec, reporter: Reporter) -> tuple[Summary, SumgradError | None]:
    """Run a job to its end.

    Args:
        spec: The job.
        reporter: Told of everything that happens.

    Returns:
        The summary, and the error that ended the run, where one did. What was reached is saved
        in either case.

    Raises:
        SumgradError: The run could not begin.
    """
    began = time.monotonic()
    spec = anchored(spec, Path.cwd())
    _expect_output(spec)
    if spec.cluster.address != "inline":
        expect_answer(spec.cluster.address)
        reporter.note(f"{spec.name}: starting Ray and MLflow, reading the data …")
    with StopRequest() as stop:
        store = in_background("mlflow", lambda: open_store(spec.tracking.uri))
        job = in_background("data", lambda: assemble(spec, prepare(spec)))
        run = in_background(
            "run",
            lambda: RunTracker.start(store.result(), _facts(job.result()), reporter.note),
        )
        with _truthful(run):
            with _exchange(spec, job) as exchange:
                result = _compute(job.result(), exchange, _Curves(run), reporter, stop)
            tracker = run.result()
            kept = _keep(job.result(), result, tracker)
    return _summary(job.result(), result, kept, tracker, time.monotonic() - began), result.error


def _expect_output(spec: JobSpec) -> None:
    """Raise now, and not after hours, if the trained model will have nowhere to go."""
    folder = Path(spec.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(
            f"the folder {folder} cannot be made: {error.strerror}", place="output"
        ) from None
    if not os.access(folder, os.W_OK):
        raise SpecError(f"the folder {folder} cannot be written to", place="output")


def _facts(job: Job) -> RunFacts:
    return run_facts(job.spec, job.data, job.plan.shard_rows)


@contextmanager
def _exchange(spec: JobSpec, job: "Future[Job]") -> Iterator[Exchange]:
    """An exchange at the place that the spec names."""
    if spec.cluster.address == "inline":
        lanes = spec.cluster.workers or usable_cpus()
        with InlineExchange(job.result().workload, lanes) as exchange:
            yield exchange
        return
    with ray_session(spec.cluster.address, spec.cluster.workers) as workers:
        from cluster.ray_exchange import RayExchange

        # A local Ray's workers inherit this process's environment.
        env_vars = None if spec.cluster.address == "local" else WORKER_ENVIRONMENT
        with RayExchange(job.result().workload, workers, env_vars=env_vars) as exchange:
            yield exchange


@contextmanager
def _truthful(run: "Future[RunTracker]") -> Iterator[None]:
    """Whatever ends a run, MLflow learns it: one that failed never stays RUNNING."""
    try:
        yield
    except BaseException as error:
        if run.exception() is None:
            status: Status = "FAILED" if isinstance(error, Exception) else "KILLED"
            reason = f"{type(error).__name__}: {error}"
            run.result().finish(status, tags={"sumgrad.stop_reason": reason})
        raise


class _Curves:
    """Epochs on their way to MLflow, which need not be ready yet: training does not wait for it.

    Args:
        run: The run, or what kept it from starting, which is raised as soon as it is known.
    """

    def __init__(self, run: "Future[RunTracker]") -> None:
        self._run = run
        self._waiting: list[tuple[int, dict[str, float], int]] = []
        self._send_what_waits()

    def log(self, report: EpochReport, *, accuracy: bool) -> None:
        """Note an epoch's figures, with the time of now."""
        now_ms = int(time.time() * 1000)
        self._waiting.append((report.epoch, _metrics(report, accuracy=accuracy), now_ms))
        self._send_what_waits()

    def _send_what_waits(self) -> None:
        if self._run.done():
            self.send()

    def send(self) -> None:
        """Hand everything to the run; waits until it has started."""
        tracker = self._run.result()
        for epoch, metrics, timestamp_ms in self._waiting:
            tracker.log_epoch(epoch, metrics, timestamp_ms)
        self._waiting.clear()


def _compute(
    job: Job, exchange: Exchange, curves: _Curves, reporter: Reporter, stop: StopRequest
) -> _Result:
    """Train, then evaluate the test rows unless the run was cut short."""

    def on_epoch(report: EpochReport) -> None:
        curves.log(report, accuracy=job.is_classification)
        reporter.epoch(report, accuracy=job.is_classification)

    driver = ParameterDriver(
        job.recipe,
        job.plan,
        exchange,
        validate="validation" in job.workload.sources,
        on_epoch=on_epoch,
        on_step=reporter.step,
        should_stop=stop.asked,
    )
    for line in job.describe(exchange.workers):
        reporter.note(line)
    reporter.begin(job.spec.stop.max_epochs, job.plan.steps_per_epoch)
    try:
        outcome = driver.run(build_initial_parameters(job.spec, job.network).flat)
    finally:
        reporter.end()
    curves.send()
    cut_short = outcome.failure is not None or outcome.reason in EXIT_CODES
    if cut_short or "test" not in job.workload.sources:
        return _Result(outcome)
    return _Result(outcome, driver.evaluate("test", outcome.W))


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


def _keep(job: Job, result: _Result, tracker: RunTracker) -> _Kept:
    """Save the model, log it to MLflow, and give the run its last figures and its status."""
    outcome = result.outcome
    saved = SavedModel(
        name=job.spec.name,
        network=job.network,
        parameters=job.network.parameters(outcome.W),
        schema=job.data.schema,
        facts={
            "run_id": tracker.run_id,
            "seed": job.spec.seed,
            "epochs": outcome.epochs,
            "stop_reason": outcome.reason.value,
            "data_digest": job.data.digest,
        },
    )
    folder = Path(job.spec.output) / tracker.run_id
    save_model(folder, saved)
    reject = job.spec.data.reject
    rejection = measure_rejection(saved, job.data, reject.unseen) if reject else None
    step = outcome.report.epoch if outcome.report else 0
    # A run that was told to end has only seconds left; its model is on disk.
    if result.status != "KILLED":
        tracker.log_model(folder, example_frame(job.data), step)
    tracker.finish(
        result.status,
        tags={
            "sumgrad.stop_reason": outcome.reason.value,
            "sumgrad.weights_sha256": weights_sha256(outcome.W),
            "sumgrad.model_folder": str(folder),
            "sumgrad.instances_seen": str(outcome.instances),
        }
        | ({"sumgrad.error": str(outcome.failure)} if outcome.failure else {}),
        metrics=_final_metrics(job, result, rejection),
        step=step,
    )
    return _Kept(folder, rejection)


def _final_metrics(job: Job, result: _Result, rejection: Rejection | None) -> dict[str, float]:
    metrics = rejection.metrics() if rejection else {}
    if result.test is not None:
        metrics["test_loss"] = result.test.loss
        if job.is_classification:
            metrics["test_accuracy"] = result.test.accuracy
    return metrics


def _summary(job: Job, result: _Result, kept: _Kept, tracker: RunTracker, wall_s: float) -> Summary:
    outcome, report, test = result.outcome, result.outcome.report, result.test
    return Summary(
        name=job.spec.name,
        status=result.status,
        stop_reason=outcome.reason,
        tracking_uri=redact(job.spec.tracking.uri),
        run_id=tracker.run_id,
        epochs=outcome.epochs,
        steps=outcome.steps,
        instances_seen=outcome.instances,
        train_loss=report.train_loss if report else None,
        validation_loss=report.validation.loss if report and report.validation else None,
        test_loss=test.loss if test else None,
        test_accuracy=test.accuracy if test and job.is_classification else None,
        test_rows=test.count if test else None,
        weights_sha256=weights_sha256(outcome.W),
        checkpoint=str(kept.folder),
        wall_s=wall_s,
        samples_per_s=outcome.instances / outcome.seconds if outcome.seconds else None,
        kept_epoch=report.epoch if report and report.epoch != outcome.epochs else None,
        rejection=kept.rejection.lines() if kept.rejection else [],
    )
