"""A training run from the spec to the summary: data, workers, driver, tracking, saved model.

Slow starts run side by side: MLflow in a process, the data in a thread, Ray in the main thread.
"""

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from sumgrad.cluster.address import check_reachable
from sumgrad.jobs.config.tracking_uri import check_tracking_reachable, is_server
from sumgrad.jobs.data.prepare import prepare
from sumgrad.jobs.errors import JobError, SpecError, TrackingUnreachable
from sumgrad.jobs.runs.backend import LOCAL_ADDRESSES, open_reducer
from sumgrad.jobs.runs.build import build_job
from sumgrad.jobs.runs.directory import RunDirectory
from sumgrad.jobs.runs.finish import deliver_finished, record_early_end, save_run
from sumgrad.jobs.runs.progress import Reporter
from sumgrad.jobs.runs.signals import StopRequest
from sumgrad.jobs.runs.start import ActiveRun, create, reopen
from sumgrad.jobs.runs.summary import Summary
from sumgrad.jobs.runs.sync import require_credentials
from sumgrad.jobs.runs.train_loop import run_training
from sumgrad.jobs.spec.paths import resolve_paths
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.support.threads import run_in_thread
from sumgrad.jobs.tracking.run_tracker import RunTracker
from sumgrad.jobs.tracking.store import is_login_refused
from sumgrad.model.errors import SumgradError


@dataclass(frozen=True)
class LaunchOptions:
    """Options of a run beside its spec; the host of a submitted job sets all of them."""

    #: MLflow tags that replace or complete the run's own.
    tags: Mapping[str, str] = field(default_factory=dict)
    waits_for_nodes: bool = False  #: Whether to wait for CPUs that the cluster does not have yet.
    allow_code_change: bool = False  #: Whether other code may resume a run, which is recorded.
    on_start: Callable[[RunTracker], None] = lambda _: None  #: Called with the run's new tracker.


_DEFAULTS = LaunchOptions()


def train(
    spec: JobSpec, reporter: Reporter, options: LaunchOptions = _DEFAULTS
) -> tuple[Summary, SumgradError | None]:
    """Run a job to its end.

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
    """Resume a run with the same job, which may run elsewhere, and return what `train` returns.

    The weights are bit-identical to those of an uninterrupted run. A run that has finished but was
    not delivered to MLflow is delivered.

    Raises:
        RunLocked: Another process has locked the run.
        JobError: The run has finished.
        CheckpointError: The job has changed, or no checkpoint is intact.
        SumgradError: The run could not start.
    """
    spec = resolve_paths(spec, Path.cwd())
    require_credentials(spec.tracking.uri)
    with directory.lock():
        end = directory.record.end
        if end is None or end.can_resume:
            return _Training(spec, reporter, options, directory).run()
        if directory.is_delivered:
            state = f"run {directory.record.run_id} has finished ({end.stop_reason})"
            raise JobError(f"{state}; there is nothing to resume")
        summary = deliver_finished(directory, spec.tracking.uri)
        if summary.is_delivered:
            return summary, None
        problem = f"run {summary.run_id} is not completely delivered to MLflow"
        return summary, TrackingUnreachable(problem)


@dataclass
class _Training:
    """One run of this process, a new or a resumed one, from a spec with absolute paths."""

    spec: JobSpec
    reporter: Reporter
    options: LaunchOptions
    directory: RunDirectory | None = None
    started: float = field(default_factory=time.monotonic)
    locks: ExitStack = field(default_factory=ExitStack)  #: Releases a new run's lock.
    #: The run, once it is created or reopened.
    active: "Future[ActiveRun]" = field(default_factory=Future)

    def run(self) -> tuple[Summary, SumgradError | None]:
        """Train, and return what `train` returns."""
        uri = self.spec.tracking.uri
        earlier = self.directory.record if self.directory is not None else None
        must_answer = self.spec.tracking.on_unavailable == "fail"
        if not is_server(uri):
            check_tracking_reachable(uri)
        # The tracker comes first, because MLflow takes the longest to start.
        tracker = RunTracker(uri, must_answer=must_answer)
        with closing(tracker), StopRequest() as stop, self.locks:
            self.options.on_start(tracker)
            try:
                return self._run(tracker, stop)
            except BaseException as error:
                # A future that has not begun can be cancelled, so that no run appears later.
                if not self.active.cancel() and self.active.exception() is None:
                    record_early_end(self.active.result(), error, stop, earlier)
                raise

    def _run(self, tracker: RunTracker, stop: StopRequest) -> tuple[Summary, SumgradError | None]:
        spec, options = self.spec, self.options
        if spec.cluster.address != "inline":
            check_reachable(spec.cluster.address)
            self.reporter.note(f"{spec.name}: starting Ray and MLflow, reading the data …")
        job = run_in_thread("data", lambda: build_job(spec, prepare(spec, stop.raise_if_requested)))
        login_refused = run_in_thread("login", lambda: is_login_refused(spec.tracking.uri))
        must_register = tracker.must_answer or self.directory is not None
        if self.directory is None:
            self.active = run_in_thread(
                "start", lambda: create(job.result(), tracker, self.locks, options.tags), after=job
            )
        else:
            # A job that cannot be resumed is refused before it waits for workers.
            run = reopen(job.result(), tracker, self.directory, options.allow_code_change)
            self.active.set_result(run)
        with open_reducer(
            spec.cluster, job, stop, waits_for_nodes=options.waits_for_nodes
        ) as reducer:
            run = self.active.result()
            if must_register or login_refused.result():
                tracker.wait_until_registered()
            result = run_training(run, reducer, self.reporter, stop)
            if spec.cluster.address not in LOCAL_ADDRESSES:
                # The rest can take a minute, and other jobs may wait for the CPUs.
                reducer.close()
            return save_run(run, result, self.started), result.error or tracker.refusal


def _check_output(spec: JobSpec) -> None:
    """Raise SpecError, before hours of training, unless the output folder can be written."""
    folder = Path(spec.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"the folder {folder} cannot be created: {error.strerror}"
        raise SpecError(message, key="output") from None
    if not os.access(folder, os.W_OK):
        raise SpecError(f"the folder {folder} cannot be written to", key="output")
