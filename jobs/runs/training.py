"""A training run from the spec to the summary: data, workers, driver, tracking, saved model.

Slow starts run side by side: MLflow in a process, the data in a thread, Ray in the main thread.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from sumgrad.cluster.address import check_reachable
from sumgrad.cluster.errors import ClusterError
from sumgrad.jobs.config.tracking_uri import check_tracking_reachable, is_server
from sumgrad.jobs.data.prepare import prepare
from sumgrad.jobs.errors import Interrupted, RunNotFound, SpecError
from sumgrad.jobs.runs.backend import LOCAL_ADDRESSES, open_reducer
from sumgrad.jobs.runs.checkpoints import Checkpoint
from sumgrad.jobs.runs.directory import RunDirectory
from sumgrad.jobs.runs.finish import deliver_finished, record_failure, save_run
from sumgrad.jobs.runs.job import TrainingJob, build_job
from sumgrad.jobs.runs.launch_options import LaunchOptions
from sumgrad.jobs.runs.progress import Reporter
from sumgrad.jobs.runs.signals import EXIT_CODES, StopRequest
from sumgrad.jobs.runs.start import ActiveRun, create, load_checkpoint, reopen, undo
from sumgrad.jobs.runs.summary import Summary
from sumgrad.jobs.runs.sync import require_credentials
from sumgrad.jobs.runs.train_loop import run_training
from sumgrad.jobs.spec.paths import resolve_paths
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.support.logs import logs_through
from sumgrad.jobs.support.threads import run_in_thread
from sumgrad.jobs.tracking.metadata import Status
from sumgrad.jobs.tracking.run_tracker import RESPONSE_TIMEOUT_S, RunTracker
from sumgrad.model.errors import SumgradError

#: How long the end of a run waits for MLflow after a second signal.
_URGENT_TIMEOUT_S = 2.0
_DEFAULTS = LaunchOptions()


def train(
    spec: JobSpec, reporter: Reporter, options: LaunchOptions = _DEFAULTS
) -> tuple[Summary, SumgradError | None]:
    """Run a job to its end.

    Args:
        spec: The job.
        reporter: Shows the progress.
        options: How the run was launched.

    Returns:
        The summary, and the error that ended the run or kept MLflow from accepting it. The weights
        are saved in either case.

    Raises:
        SumgradError: The run could not start.
    """
    spec = resolve_paths(spec, Path.cwd())
    _check_output(spec)
    return _Training(spec, reporter, options).run()


def resume(
    directory: RunDirectory, spec: JobSpec, reporter: Reporter, options: LaunchOptions = _DEFAULTS
) -> tuple[Summary, SumgradError | None]:
    """Resume a run. The weights are bit-identical to those of an uninterrupted run.

    A run that has finished but was not delivered to MLflow is delivered.

    Args:
        directory: The run.
        spec: The same job. It may run elsewhere.
        reporter: Shows the progress.
        options: How the run was launched.

    Returns:
        As `train`.

    Raises:
        RunLocked: Another process has locked the run.
        RunNotFound: The run has finished.
        CheckpointError: The job has changed, or no checkpoint is intact.
        SumgradError: The run could not start.
    """
    spec = resolve_paths(spec, Path.cwd())
    require_credentials(spec.tracking.uri)
    with directory.lock():
        # It may have ended just now.
        directory = RunDirectory.open(directory.path)
        end = directory.record.end
        if end is None or end.can_resume:
            return _Training(spec, reporter, options, directory).run()
        if directory.is_delivered:
            raise RunNotFound(
                f"run {directory.record.run_id} has finished ({end.stop_reason}); "
                "there is nothing to resume"
            )
        return deliver_finished(directory, spec.tracking.uri), None


class _Training:
    """One run of this process, from the spec to the summary.

    Args:
        spec: With absolute paths.
        reporter: Shows the progress.
        options: How the run was launched.
        directory: The run to resume; None for a new one.
    """

    def __init__(
        self,
        spec: JobSpec,
        reporter: Reporter,
        options: LaunchOptions,
        directory: RunDirectory | None = None,
    ) -> None:
        self._spec = spec
        self._reporter = reporter
        self._options = options
        self._directory = directory
        self._earlier = directory.record if directory is not None else None
        self._started = time.monotonic()
        #: Releases a new run's lock.
        self._locks = ExitStack()
        #: Guards the two below.
        self._starting = threading.Lock()
        self._run: ActiveRun | None = None
        self._is_cancelled = False

    def run(self) -> tuple[Summary, SumgradError | None]:
        """Train, and return what `train` returns."""
        spec, reporter = self._spec, self._reporter
        must_answer = spec.tracking.on_unavailable == "fail"
        if not is_server(spec.tracking.uri):
            check_tracking_reachable(spec.tracking.uri)
        # The tracker comes first, because MLflow takes the longest to start.
        with (
            closing(RunTracker(spec.tracking.uri, must_answer=must_answer)) as tracker,
            StopRequest() as stop,
            logs_through(reporter.note),
            self._locks,
            self._recorded(stop),
        ):
            if spec.cluster.address != "inline":
                check_reachable(spec.cluster.address)
                reporter.note(f"{spec.name}: starting Ray and MLflow, reading the data …")
            job = run_in_thread(
                "data", lambda: build_job(spec, prepare(spec, stop.raise_if_requested))
            )
            start = run_in_thread("start", lambda: self._start(job.result(), tracker))
            if self._directory is not None:
                # A job that cannot be resumed is refused before it waits for workers.
                start.result()
            with (
                _interrupted(stop),
                open_reducer(spec, job, stop, self._options) as reducer,
            ):
                run, checkpoint = start.result()
                if self._directory is not None or must_answer:
                    tracker.wait_until_registered()
                result = run_training(job.result(), checkpoint, reducer, run, reporter, stop)
                if spec.cluster.address not in LOCAL_ADDRESSES:
                    # The rest can take a minute, and other jobs may wait for the CPUs.
                    reducer.close()
                summary = save_run(job.result(), result, run, self._started)
                return summary, result.error or tracker.refusal

    def _start(self, job: TrainingJob, tracker: RunTracker) -> tuple[ActiveRun, Checkpoint | None]:
        """Create or reopen the run, in a thread."""
        checkpoint: Checkpoint | None = None
        signature: Mapping[str, Any] = {}
        if self._directory is not None:
            allow = self._options.allow_code_change
            checkpoint, signature = load_checkpoint(job, self._directory, allow_code_change=allow)
        with self._starting:
            if self._is_cancelled:
                raise RunNotFound("the run was cancelled before its start")
            if self._directory is None:
                run = create(job, tracker, self._locks, self._options.tags)
            else:
                run = reopen(self._directory, tracker, signature)
            self._run = run
        self._options.on_start(tracker)
        return run, checkpoint

    @contextmanager
    def _recorded(self, stop: StopRequest) -> Iterator[None]:
        """Record whatever ends the run early, so that it does not stay RUNNING."""
        try:
            yield
        except BaseException as error:
            with self._starting:
                self._is_cancelled = True
                run = self._run
            if run is not None and error is run.tracker.refusal:
                undo(run, self._earlier)
            elif run is not None and run.directory.record.end is None:
                reason = stop.requested() or f"{type(error).__name__}: {error}"
                is_failure = isinstance(error, Exception) and not isinstance(error, Interrupted)
                status: Status = "FAILED" if is_failure else "KILLED"
                timeout = _URGENT_TIMEOUT_S if stop.requested() else RESPONSE_TIMEOUT_S
                record_failure(run, status, str(reason), timeout)
            raise


def _check_output(spec: JobSpec) -> None:
    """Check that the output folder can be written, before hours of training.

    Raises:
        SpecError: It cannot.
    """
    folder = Path(spec.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(
            f"the folder {folder} cannot be created: {error.strerror}", key="output"
        ) from None
    if not os.access(folder, os.W_OK):
        raise SpecError(f"the folder {folder} cannot be written to", key="output")


@contextmanager
def _interrupted(stop: StopRequest) -> Iterator[None]:
    """Turn a cluster's error into `Interrupted` if the user has stopped the run.

    Raises:
        Interrupted: Instead of that error.
    """
    try:
        yield
    except ClusterError as error:
        reason = stop.requested()
        if reason is None:
            raise
        message = f"the run was {reason} before its first step"
        raise Interrupted(message, EXIT_CODES[reason]) from error
