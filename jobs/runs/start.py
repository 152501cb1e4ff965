"""Beginning a run, or going on with one: its folder, its place in MLflow, its identity."""

import re
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from sumgrad.jobs.config.tracking_uri import is_server
from sumgrad.jobs.errors import CheckpointError, TrackingError, TrackingUnreachable
from sumgrad.jobs.runs.checkpoints import Checkpoint
from sumgrad.jobs.runs.directory import RunDirectory, RunRecord, facts_as_json, now
from sumgrad.jobs.runs.job import TrainingJob
from sumgrad.jobs.runs.metadata import describe_run
from sumgrad.jobs.runs.signature import check_same_job, compute_signature
from sumgrad.jobs.runs.sync import link_to
from sumgrad.jobs.support.threads import run_in_thread
from sumgrad.jobs.tracking import Journal, Link, RunTracker, redact
from sumgrad.jobs.tracking.client import RunRef, TrackingClient
from sumgrad.jobs.tracking.example import example_text

#: What an id from MLflow has to look like to become the name of a folder.
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,99}")
#: Seconds that a new run waits for a server unless `tracking.on_unavailable` is `fail`.
PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class ActiveRun:
    """A run that has begun.

    Attributes:
        folder: On disk; held by this process.
        link: To MLflow's run.
        tracker: Tells MLflow; what is told before there is that run waits.
        journal: Of its metrics.
    """

    folder: RunDirectory
    link: Link
    tracker: RunTracker
    journal: Journal


def begin(
    job: TrainingJob,
    client: TrackingClient,
    held: ExitStack,
    warn: Callable[[str], None],
    tags: Mapping[str, str] | None = None,
) -> ActiveRun:
    """Make a new run on disk; MLflow is told by `reach`.

    So there is no moment at which MLflow has a run that nobody here knows of: a process that is
    killed now leaves a folder in which `sumgrad runs` finds it.

    Args:
        job: What is to be run.
        client: Of its MLflow store.
        held: Lets go of the run's folder in the end.
        warn: Takes a line.
        tags: More tags for MLflow.

    Raises:
        OSError: The folder cannot be written.
    """
    facts, key = describe_run(job.spec, job.data, job.plan.microbatch_size, tags), uuid.uuid4().hex
    record = RunRecord(
        run_id=key,
        key=key,
        name=job.spec.name,
        began=now(),
        tracking_uri=redact(job.spec.tracking.uri),
        facts=facts_as_json(facts),
        job=compute_signature(job),
    )
    example = example_text(job.data.example, job.data.schema)
    folder = RunDirectory.create(Path(job.spec.output) / key, record, facts.spec_yaml, example)
    held.enter_context(folder.lock())
    return _begun(folder, Link(client, facts, key), warn)


def reach(
    job: TrainingJob, begun: ActiveRun, client: TrackingClient, warn: Callable[[str], None]
) -> None:
    """Make a new run in MLflow too, if its store answers; its folder gets MLflow's name for it.

    Raises:
        TrackingError: The store refuses; or does not answer, and the spec wants it to.
    """
    folder = begun.folder
    try:
        _ask(job, client, begun.link.linked, warn)
    except TrackingError:
        # It has not begun, and there is nothing to go on with.
        begun.tracker.abandon()
        folder.remove()
        raise
    run_id = begun.link.run_id
    # A server's answer becomes the name of a folder only if it is nothing but a name.
    if run_id is not None and _NAME.fullmatch(run_id):

        def rename() -> Path:
            folder.rename(run_id)
            return folder.journal_path

        # On a disk that is full it keeps the name that it has.
        with folder.in_place(), suppress(OSError):
            begun.journal.follow(rename)


def go_on(folder: RunDirectory, client: TrackingClient, warn: Callable[[str], None]) -> ActiveRun:
    """Go on with a run that this process holds; MLflow is told by `reach_again`.

    Raises:
        JobError: The run's record is damaged.
    """
    return _begun(folder, link_to(folder, client), warn)


def reach_again(
    job: TrainingJob, begun: ActiveRun, client: TrackingClient, warn: Callable[[str], None]
) -> None:
    """Tell MLflow that a run goes on, and have its folder say so.

    Raises:
        TrackingError: The store refuses.
    """
    folder = begun.folder
    before = folder.record
    folder.update(end=None, is_delivered=False)
    try:
        _ask(job, client, begun.tracker.goes_on, warn)
    except TrackingError:
        # It does not go on, and is what it was.
        folder.update(end=before.end, is_delivered=before.is_delivered)
        raise


def _ask(
    job: TrainingJob,
    client: TrackingClient,
    question: Callable[[], object],
    warn: Callable[[str], None],
) -> None:
    """Ask the store something; a server that does not answer may be gone on without.

    Raises:
        TrackingError: The store refuses; or does not answer, and the spec wants it to.
    """
    tracking = job.spec.tracking
    patience = None
    if is_server(tracking.uri) and tracking.on_unavailable == "buffer":
        patience = PATIENCE_SECONDS
    try:
        if patience is not None:
            client.prepare()
        run_in_thread("ask", question).result(patience)
    except (TrackingUnreachable, TimeoutError) as error:
        if tracking.on_unavailable == "fail":
            raise
        why = (
            error.message
            if isinstance(error, TrackingError)
            else f"the MLflow server at {redact(tracking.uri)} has not answered in {patience:g} s"
        )
        warn(
            f"WARNING: {why}; training goes on, and everything is kept for it "
            "(tracking.on_unavailable=fail does not begin)"
        )


def _begun(folder: RunDirectory, link: Link, warn: Callable[[str], None]) -> ActiveRun:
    def note(linked: RunRef) -> None:
        # On a disk that is full nothing is noted, and the run is found again by its key.
        with suppress(OSError):
            folder.update(mlflow_run_id=linked.run_id)

    # A late answer may come at this very moment.
    link.on_made = note
    if link.linked_now is not None:
        note(link.linked_now)
    journal = Journal(folder.journal_path, warn)
    return ActiveRun(folder, link, RunTracker(link, warn, journal), journal)


def starting_point(
    job: TrainingJob, folder: RunDirectory, warn: Callable[[str], None]
) -> Checkpoint | None:
    """Where an earlier run was; None if it has no checkpoint yet.

    Raises:
        CheckpointError: It is another job's, or none of its checkpoints can be used.
    """
    checkpoint = folder.checkpoints().newest(warn)
    before = folder.record.job if checkpoint is None else checkpoint.job
    if before is not None:
        check_same_job(before, compute_signature(job), folder.record.run_id)
    if checkpoint is None:
        return None
    shape, dtype = (job.network.layout.size,), job.network.dtype
    if any(
        name in ("W", "last_finite", "best") and (array.shape != shape or array.dtype != dtype)
        for name, array in checkpoint.snapshot.arrays.items()
    ):
        raise CheckpointError(f"the checkpoint in {folder.path} is not of this network")
    return checkpoint
