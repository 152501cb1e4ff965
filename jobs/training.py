"""A training run from the spec to the summary: data, workers, driver, tracking, saved model.

What takes long to start goes on side by side: MLflow in a process of its own, the data in a thread,
Ray in the main one.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.convergence import RESUMABLE, StopReason
from cluster.crew import CrewRules
from cluster.driver import ParameterDriver
from cluster.errors import ClusterError, ShardFailed
from cluster.exchange import Exchange, InlineExchange
from cluster.ray_session import WORKER_ENVIRONMENT, expect_answer, ray_session, usable_cpus
from cluster.state import EpochReport, Evaluation, Outcome, Snapshot
from jobs.anchoring import anchored
from jobs.assembly import Job, assemble
from jobs.background import in_background
from jobs.beginning import Begun, begin, go_on, reach, reach_again, starting_point
from jobs.building import build_initial_parameters
from jobs.checkpoints import Checkpoint, Checkpointer, CheckpointFolder, Interval
from jobs.data.prepare import prepare
from jobs.delivering import deliver, expect_whole
from jobs.errors import Interrupted, RunNotFound, SpecError
from jobs.hosting import Hosting
from jobs.identity import identity
from jobs.rejection import Rejection, measure_rejection
from jobs.reporting import Reporter
from jobs.run_folder import Ending, RunFolder
from jobs.saved_model import SavedModel, save_model
from jobs.signals import EXIT_CODES, StopRequest
from jobs.spec import JobSpec
from jobs.summary import Summary
from jobs.tracking import ProcessClient, redact
from jobs.tracking.client import Status, TrackingClient
from jobs.tracking.location import check_reachable, is_server
from jobs.tracking.run import PATIENCE_SECONDS
from model.checks import Array
from model.errors import SumgradError
from model.parameters import weights_sha256

#: A person's own run.
_OWN = Hosting()


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

    folder: RunFolder
    is_delivered: bool
    rejection: Rejection | None


def train(
    spec: JobSpec, reporter: Reporter, hosting: Hosting = _OWN
) -> tuple[Summary, SumgradError | None]:
    """Run a job to its end.

    Args:
        spec: The job.
        reporter: Told of everything that happens.
        hosting: By whom it is run for whom.

    Returns:
        The summary, and the error that ended the run, where one did. What was reached is saved
        in either case.

    Raises:
        SumgradError: The run could not begin.
    """
    spec = anchored(spec, Path.cwd())
    _expect_output(spec)
    return _Training(spec, reporter, hosting).run()


def resume(
    folder: RunFolder, spec: JobSpec, reporter: Reporter, hosting: Hosting = _OWN
) -> tuple[Summary, SumgradError | None]:
    """Go on with a run as if it had never been interrupted: the same bits, the same run in MLflow.

    Args:
        folder: Of the run.
        spec: The job, which has to be the same one; but it may run elsewhere.
        reporter: Told of everything that happens.
        hosting: By whom it is run for whom.

    Returns:
        See `train`.

    Raises:
        RunBusy: Another process has the run in hand.
        CheckpointError: The job is another one, or no checkpoint can be used.
        SumgradError: It could not begin.
    """
    spec = anchored(spec, Path.cwd())
    expect_whole(spec.tracking.uri)
    with folder.held():
        # Asked again, as it may have come to its end just now.
        folder = RunFolder.open(folder.path)
        ending = folder.record.ending
        if ending is not None and not ending.can_resume:
            raise RunNotFound(
                f"run {folder.record.run_id} is over ({ending.stop_reason}), and there is nothing "
                "to go on with",
                hint="" if folder.record.is_delivered else "sumgrad sync tells MLflow the rest",
            )
        return _Training(spec, reporter, hosting, folder).run()


class _Training:
    """One run of this process, from the spec to the summary.

    Args:
        spec: With absolute paths.
        reporter: Told of everything.
        hosting: By whom it is run for whom.
        earlier: The folder of the run to go on with; None for a new one.
    """

    def __init__(
        self,
        spec: JobSpec,
        reporter: Reporter,
        hosting: Hosting,
        earlier: RunFolder | None = None,
    ) -> None:
        self._spec = spec
        self._reporter = reporter
        self._hosting = hosting
        self._earlier = earlier
        self._began = time.monotonic()
        #: Lets go of a new run's folder.
        self._held = ExitStack()

    def run(self) -> tuple[Summary, SumgradError | None]:
        """See `train`."""
        # Before anything else: nothing takes longer until it is ready.
        with ProcessClient(self._spec.tracking.uri) as client:
            return self._run(client)

    def _run(self, client: TrackingClient) -> tuple[Summary, SumgradError | None]:
        spec, reporter = self._spec, self._reporter
        if not is_server(spec.tracking.uri):
            check_reachable(spec.tracking.uri)
        if spec.cluster.address != "inline":
            expect_answer(spec.cluster.address)
            reporter.note(f"{spec.name}: starting Ray and MLflow, reading the data …")
        with StopRequest() as stop, self._held:
            job = in_background("data", lambda: assemble(spec, prepare(spec)))
            start = in_background("start", lambda: self._starting_point(job.result()))
            begun = in_background("begin", lambda: self._begin(job.result(), start, client))
            run = in_background("run", lambda: self._reach(job.result(), begun, client))
            if self._earlier is not None:
                # What cannot go on is told before it waits for workers.
                start.result()
            with (
                _truthful(run, stop),
                _told_to_stop(stop),
                _exchange(spec, job, reporter, stop, self._hosting) as exchange,
            ):
                return self._train(job.result(), start.result(), begun, run, exchange, stop)

    def _starting_point(self, job: Job) -> Checkpoint | None:
        if self._earlier is None:
            return None
        return starting_point(job, self._earlier, self._reporter.note)

    def _begin(self, job: Job, start: "Future[Checkpoint | None]", client: TrackingClient) -> Begun:
        # A run is not touched before it is clear that it can go on.
        start.result()
        if self._earlier is None:
            begun = begin(job, client, self._held, self._reporter.note, self._hosting.tags)
        else:
            begun = go_on(self._earlier, client, self._reporter.note)
        self._hosting.on_begun(begun.tracker)
        return begun

    def _reach(self, job: Job, begun: "Future[Begun]", client: TrackingClient) -> Begun:
        reached = reach if self._earlier is None else reach_again
        reached(job, begun.result(), client, self._reporter.note)
        return begun.result()

    def _train(
        self,
        job: Job,
        start: Checkpoint | None,
        beginning: "Future[Begun]",
        run: "Future[Begun]",
        exchange: Exchange,
        stop: StopRequest,
    ) -> tuple[Summary, SumgradError | None]:
        begun = beginning.result()
        result = _compute(job, start, exchange, begun, run, self._reporter, stop)
        kept = _keep(job, result, begun, self._reporter)
        summary = _summary(job, result, kept, begun, time.monotonic() - self._began)
        return summary, result.error


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


@contextmanager
def _exchange(
    spec: JobSpec,
    job: "Future[Job]",
    reporter: Reporter,
    stop: StopRequest,
    hosting: Hosting,
) -> Iterator[Exchange]:
    """An exchange at the place that the spec names."""
    address, wanted = spec.cluster.address, spec.cluster.worker_range
    if address == "inline":
        lanes = max(wanted.min, min(usable_cpus(), wanted.max or usable_cpus()))
        with InlineExchange(job.result().workload, lanes) as exchange:
            yield exchange
        return
    with ray_session(
        address, wanted.max, least=wanted.min, waits_for_nodes=hosting.waits_for_nodes
    ) as workers:
        from cluster.ray_exchange import RayExchange

        # A local Ray has the CPUs that it has, and its workers inherit this process's environment.
        is_local = address == "local"
        extra = max(0, (wanted.max or 0) - workers)
        if extra:
            reporter.note(
                f"asked for up to {wanted.max} workers, the cluster has {workers} CPUs: begins "
                f"with {workers}" + ("" if is_local else ", and more join when there is room")
            )
        rules = CrewRules(
            least=wanted.min,
            wait_s=spec.cluster.wait_seconds,
            extra=0 if is_local else extra,
            note=reporter.note,
            is_stopping=lambda: stop.asked() is not None,
        )
        env_vars = None if is_local else WORKER_ENVIRONMENT
        with RayExchange(
            job.result().workload, workers, env_vars=env_vars, rules=rules
        ) as exchange:
            yield exchange


@contextmanager
def _told_to_stop(stop: StopRequest) -> Iterator[None]:
    """A cluster that could not be had because we were told to stop has not failed.

    Raises:
        Interrupted: In the place of that error.
    """
    try:
        yield
    except ClusterError as error:
        reason = stop.asked()
        if reason is None:
            raise
        message = f"the run was {reason} before its first step"
        raise Interrupted(message, EXIT_CODES[reason]) from error


@contextmanager
def _truthful(run: "Future[Begun]", stop: StopRequest) -> Iterator[None]:
    """Whatever ends a run is recorded: one that failed never stays RUNNING."""
    try:
        yield
    except BaseException as error:
        if run.exception() is None and run.result().folder.record.ending is None:
            reason = stop.asked() or f"{type(error).__name__}: {error}"
            is_failure = isinstance(error, Exception) and not isinstance(error, Interrupted)
            # A second signal asks for an end at once.
            patience = 2.0 if stop.asked() else PATIENCE_SECONDS
            status: Status = "FAILED" if is_failure else "KILLED"
            _record_ending(run.result(), status, str(reason), patience)
        raise


def _record_ending(begun: Begun, status: Status, reason: str, patience: float) -> None:
    """Record on disk and in MLflow that a run ended before its time."""
    tags = {"sumgrad.stop_reason": reason}
    # A disk that is full must not keep MLflow from knowing.
    with suppress(OSError):
        begun.folder.update(ending=Ending(status, reason, tags, 0, can_resume=True))
    begun.tracker.finish(status, tags, patience=patience)


def _compute(
    job: Job,
    start: Checkpoint | None,
    exchange: Exchange,
    begun: Begun,
    run: "Future[Begun]",
    reporter: Reporter,
    stop: StopRequest,
) -> _Result:
    """Train, then evaluate the test rows unless the run was cut short.

    Args:
        job: What to train.
        start: Where to go on from.
        exchange: Computes the steps.
        begun: The run on disk.
        run: The same once MLflow has it, which training does not wait for; what keeps it from being
            there is raised as soon as it is known.
        reporter: Told of everything.
        stop: Asked at every step.
    """
    if start is not None or job.spec.tracking.outage == "fail":
        # What MLflow refuses is told before anything is computed again, or at all.
        run.result()

    def on_epoch(report: EpochReport) -> None:
        if run.done():
            run.result()
        begun.tracker.log_epoch(report.epoch, _metrics(report, accuracy=job.is_classification))
        reporter.epoch(report, accuracy=job.is_classification)

    checkpointer = _checkpointer(job, begun, reporter)
    driver = ParameterDriver(
        job.recipe,
        job.plan,
        exchange,
        validate="validation" in job.workload.sources,
        on_epoch=on_epoch,
        on_step=reporter.step,
        on_boundary=checkpointer.boundary,
        should_stop=stop.asked,
    )
    for line in job.describe(exchange.workers):
        reporter.note(line)
    if start is not None:
        checkpointer.goes_on_from(start)
        reporter.note(f"going on after step {start.snapshot.step:,}")
    reporter.begin(job.spec.stop.max_epochs, job.plan.steps_per_epoch)
    beginning = build_initial_parameters(job.spec, job.network).flat
    try:
        outcome = _outcome(driver, beginning if start is None else start.snapshot, checkpointer)
    finally:
        reporter.end()
    run.result()
    outcome, test = _tested(job, driver, outcome)
    if isinstance(outcome.failure, ShardFailed):
        place = job.data.describe(outcome.failure.source, outcome.failure.rows)
        outcome = replace(outcome, failure=outcome.failure.at(place))
    return _Result(outcome, test)


def _tested(
    job: Job, driver: ParameterDriver, outcome: Outcome
) -> tuple[Outcome, Evaluation | None]:
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
) -> Outcome:
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


def _checkpointer(job: Job, begun: Begun, reporter: Reporter) -> Checkpointer:
    rule = job.spec.checkpoint

    @contextmanager
    def ready() -> Iterator[CheckpointFolder | None]:
        """The folder, with the curves up to here on the disk."""
        with begun.folder.in_place() as is_there:
            if not is_there:
                yield None
                return
            # A run that goes on from here does not give these epochs again.
            begun.journal.sync()
            yield begun.folder.checkpoints(rule.keep)

    interval = Interval(rule.every_steps, rule.every_seconds)
    return Checkpointer(ready, identity(job), interval, reporter.note)


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


def _keep(job: Job, result: _Result, begun: Begun, reporter: Reporter) -> _Kept:
    """Save the model, record how the run ended, and tell MLflow."""
    outcome, folder = result.outcome, begun.folder
    saved = SavedModel(
        name=job.spec.name,
        network=job.network,
        parameters=job.network.parameters(outcome.W),
        schema=job.data.schema,
        facts={
            "run_id": begun.tracker.run_id or folder.record.run_id,
            "seed": job.spec.seed,
            "epochs": outcome.epochs,
            "stop_reason": outcome.reason.value,
            "data_digest": job.data.digest,
        },
    )
    save_model(folder.model, saved)
    reject = job.spec.data.reject
    rejection = measure_rejection(saved, job.data, reject.unseen) if reject else None
    step = outcome.report.epoch if outcome.report else 0
    begun.tracker.log_epoch(step, _final_metrics(job, result, rejection))
    tags = {
        "sumgrad.stop_reason": outcome.reason.value,
        "sumgrad.weights_sha256": weights_sha256(outcome.W),
        "sumgrad.model_folder": str(folder.model),
        "sumgrad.instances_seen": str(outcome.instances),
    }
    if outcome.failure:
        tags["sumgrad.error"] = str(outcome.failure)
    can_resume = outcome.reason in RESUMABLE
    ending = Ending(result.status, outcome.reason.value, tags, step, can_resume)
    # On disk first: whatever happens to MLflow, or to us, from here on can be made up for.
    folder.update(ending=ending, is_model_logged=False)
    return _Kept(folder, deliver(folder, begun.tracker, reporter.note), rejection)


def _final_metrics(job: Job, result: _Result, rejection: Rejection | None) -> dict[str, float]:
    metrics = rejection.metrics() if rejection else {}
    if result.test is not None:
        metrics["test_loss"] = result.test.loss
        if job.is_classification:
            metrics["test_accuracy"] = result.test.accuracy
    return metrics


def _summary(job: Job, result: _Result, kept: _Kept, begun: Begun, wall_s: float) -> Summary:
    outcome, report, test = result.outcome, result.outcome.report, result.test
    return Summary(
        name=job.spec.name,
        status=result.status,
        stop_reason=outcome.reason,
        tracking_uri=redact(job.spec.tracking.uri),
        run_id=begun.tracker.run_id or kept.folder.record.run_id,
        epochs=outcome.epochs,
        steps=outcome.steps,
        instances_seen=outcome.instances,
        train_loss=report.train_loss if report else None,
        validation_loss=report.validation.loss if report and report.validation else None,
        test_loss=test.loss if test else None,
        test_accuracy=test.accuracy if test and job.is_classification else None,
        test_rows=test.count if test else None,
        weights_sha256=weights_sha256(outcome.W),
        checkpoint=str(kept.folder.model),
        run_folder=str(kept.folder.path),
        can_resume=outcome.snapshot is not None,
        is_delivered=kept.is_delivered,
        wall_s=wall_s,
        samples_per_s=outcome.instances / outcome.seconds if outcome.seconds else None,
        kept_epoch=report.epoch if report and report.epoch != outcome.epochs else None,
        rejection=kept.rejection.lines() if kept.rejection else [],
    )
