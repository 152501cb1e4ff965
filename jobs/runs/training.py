"""A training run from the spec to the summary: data, workers, driver, tracking, saved model.

What takes long to start goes on side by side: MLflow in a process of its own, the data in a thread,
Ray in the main one.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sumgrad.cluster.errors import ClusterError
from sumgrad.cluster.ray_backend.session import check_reachable
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.jobs.config.tracking_uri import check_tracking_reachable, is_server
from sumgrad.jobs.data.prepare import prepare
from sumgrad.jobs.errors import Interrupted, RunNotFound, SpecError
from sumgrad.jobs.runs.backend import LOCAL_ADDRESSES, open_reducer
from sumgrad.jobs.runs.checkpoints import Checkpoint
from sumgrad.jobs.runs.directory import RunDirectory, RunEnd
from sumgrad.jobs.runs.finish import keep, summarize
from sumgrad.jobs.runs.job import TrainingJob, build_job
from sumgrad.jobs.runs.launch_options import LaunchOptions
from sumgrad.jobs.runs.progress import Reporter
from sumgrad.jobs.runs.signals import EXIT_CODES, StopRequest
from sumgrad.jobs.runs.start import ActiveRun, begin, go_on, reach, reach_again, starting_point
from sumgrad.jobs.runs.summary import Summary
from sumgrad.jobs.runs.sync import require_credentials
from sumgrad.jobs.runs.train_loop import run_training
from sumgrad.jobs.spec.paths import resolve_paths
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.support.threads import run_in_thread
from sumgrad.jobs.tracking import ProcessClient
from sumgrad.jobs.tracking.client import Status, TrackingClient
from sumgrad.jobs.tracking.run_tracker import PATIENCE_SECONDS
from sumgrad.model.errors import SumgradError

#: A person's own run.
_OWN = LaunchOptions()


def train(
    spec: JobSpec, reporter: Reporter, options: LaunchOptions = _OWN
) -> tuple[Summary, SumgradError | None]:
    """Run a job to its end.

    Args:
        spec: The job.
        reporter: Told of everything that happens.
        options: By whom it is run for whom.

    Returns:
        The summary, and the error that ended the run, where one did. What was reached is saved
        in either case.

    Raises:
        SumgradError: The run could not begin.
    """
    spec = resolve_paths(spec, Path.cwd())
    _expect_output(spec)
    return _Training(spec, reporter, options).run()


def resume(
    folder: RunDirectory, spec: JobSpec, reporter: Reporter, options: LaunchOptions = _OWN
) -> tuple[Summary, SumgradError | None]:
    """Go on with a run as if it had never been interrupted: the same bits, the same run in MLflow.

    Args:
        folder: Of the run.
        spec: The job, which has to be the same one; but it may run elsewhere.
        reporter: Told of everything that happens.
        options: By whom it is run for whom.

    Returns:
        See `train`.

    Raises:
        RunLocked: Another process has the run in hand.
        CheckpointError: The job is another one, or no checkpoint can be used.
        SumgradError: It could not begin.
    """
    spec = resolve_paths(spec, Path.cwd())
    require_credentials(spec.tracking.uri)
    with folder.lock():
        # Asked again, as it may have come to its end just now.
        folder = RunDirectory.open(folder.path)
        ending = folder.record.end
        if ending is not None and not ending.can_resume:
            raise RunNotFound(
                f"run {folder.record.run_id} is over ({ending.stop_reason}), and there is nothing "
                "to go on with",
                hint="" if folder.record.is_delivered else "sumgrad sync tells MLflow the rest",
            )
        return _Training(spec, reporter, options, folder).run()


class _Training:
    """One run of this process, from the spec to the summary.

    Args:
        spec: With absolute paths.
        reporter: Told of everything.
        options: By whom it is run for whom.
        earlier: The folder of the run to go on with; None for a new one.
    """

    def __init__(
        self,
        spec: JobSpec,
        reporter: Reporter,
        options: LaunchOptions,
        earlier: RunDirectory | None = None,
    ) -> None:
        self._spec = spec
        self._reporter = reporter
        self._hosting = options
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
            check_tracking_reachable(spec.tracking.uri)
        if spec.cluster.address != "inline":
            check_reachable(spec.cluster.address)
            reporter.note(f"{spec.name}: starting Ray and MLflow, reading the data …")
        with StopRequest() as stop, self._held:
            job = run_in_thread("data", lambda: build_job(spec, prepare(spec)))
            start = run_in_thread("start", lambda: self._starting_point(job.result()))
            begun = run_in_thread("begin", lambda: self._begin(job.result(), start, client))
            run = run_in_thread("run", lambda: self._reach(job.result(), begun, client))
            if self._earlier is not None:
                # What cannot go on is told before it waits for workers.
                start.result()
            with (
                _truthful(run, stop),
                _told_to_stop(stop),
                open_reducer(spec, job, reporter, stop, self._hosting) as reducer,
            ):
                return self._train(job.result(), start.result(), begun, run, reducer, stop)

    def _starting_point(self, job: TrainingJob) -> Checkpoint | None:
        if self._earlier is None:
            return None
        return starting_point(job, self._earlier, self._reporter.note)

    def _begin(
        self, job: TrainingJob, start: "Future[Checkpoint | None]", client: TrackingClient
    ) -> ActiveRun:
        # A run is not touched before it is clear that it can go on.
        start.result()
        if self._earlier is None:
            begun = begin(job, client, self._held, self._reporter.note, self._hosting.tags)
        else:
            begun = go_on(self._earlier, client, self._reporter.note)
        self._hosting.on_start(begun.tracker)
        return begun

    def _reach(
        self, job: TrainingJob, begun: "Future[ActiveRun]", client: TrackingClient
    ) -> ActiveRun:
        reached = reach if self._earlier is None else reach_again
        reached(job, begun.result(), client, self._reporter.note)
        return begun.result()

    def _train(
        self,
        job: TrainingJob,
        start: Checkpoint | None,
        beginning: "Future[ActiveRun]",
        run: "Future[ActiveRun]",
        reducer: GradientReducer,
        stop: StopRequest,
    ) -> tuple[Summary, SumgradError | None]:
        begun = beginning.result()
        result = run_training(job, start, reducer, begun, run, self._reporter, stop)
        if self._spec.cluster.address not in LOCAL_ADDRESSES:
            # What follows can take a minute, and others may wait for the CPUs.
            reducer.close()
        kept = keep(job, result, begun, self._reporter)
        summary = summarize(job, result, kept, begun, time.monotonic() - self._began)
        return summary, result.error


def _expect_output(spec: JobSpec) -> None:
    """Raise now, and not after hours, if the trained model will have nowhere to go."""
    folder = Path(spec.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(
            f"the folder {folder} cannot be made: {error.strerror}", key="output"
        ) from None
    if not os.access(folder, os.W_OK):
        raise SpecError(f"the folder {folder} cannot be written to", key="output")


@contextmanager
def _told_to_stop(stop: StopRequest) -> Iterator[None]:
    """A cluster that could not be had because we were told to stop has not failed.

    Raises:
        Interrupted: In the place of that error.
    """
    try:
        yield
    except ClusterError as error:
        reason = stop.requested()
        if reason is None:
            raise
        message = f"the run was {reason} before its first step"
        raise Interrupted(message, EXIT_CODES[reason]) from error


@contextmanager
def _truthful(run: "Future[ActiveRun]", stop: StopRequest) -> Iterator[None]:
    """Whatever ends a run is recorded: one that failed never stays RUNNING."""
    try:
        yield
    except BaseException as error:
        if run.exception() is None and run.result().folder.record.end is None:
            reason = stop.requested() or f"{type(error).__name__}: {error}"
            is_failure = isinstance(error, Exception) and not isinstance(error, Interrupted)
            # A second signal asks for an end at once.
            patience = 2.0 if stop.requested() else PATIENCE_SECONDS
            status: Status = "FAILED" if is_failure else "KILLED"
            _record_ending(run.result(), status, str(reason), patience)
        raise


def _record_ending(begun: ActiveRun, status: Status, reason: str, patience: float) -> None:
    """Record on disk and in MLflow that a run ended before its time."""
    tags = {"sumgrad.stop_reason": reason}
    # A disk that is full must not keep MLflow from knowing.
    with suppress(OSError):
        begun.folder.update(end=RunEnd(status, reason, tags, 0, can_resume=True))
    begun.tracker.finish(status, tags, patience=patience)
