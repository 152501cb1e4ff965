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
from sumgrad.jobs.runs.directory import RunFolder, RunRecord, facts_as_json, now
from sumgrad.jobs.runs.job import Job
from sumgrad.jobs.runs.metadata import run_facts
from sumgrad.jobs.runs.signature import expect_same_job, identity
from sumgrad.jobs.runs.sync import link_to
from sumgrad.jobs.support.threads import in_background
from sumgrad.jobs.tracking import Journal, Link, RunTracker, redact
from sumgrad.jobs.tracking.client import RunRef, TrackingClient
from sumgrad.jobs.tracking.example import example_text

#: What an id from MLflow has to look like to become the name of a folder.
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,99}")
#: A run that begins waits so long for a server; with `tracking.outage: fail`, for its own errors.
PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Begun:
    """A run that has begun.

    Attributes:
        folder: On disk; held by this process.
        link: To MLflow's run.
        tracker: Tells MLflow; what is told before there is that run waits.
        journal: Of its metrics.
    """

    folder: RunFolder
    link: Link
    tracker: RunTracker
    journal: Journal


def begin(
    job: Job,
    client: TrackingClient,
    held: ExitStack,
    warn: Callable[[str], None],
    tags: Mapping[str, str] | None = None,
) -> Begun:
    """Make a new run on disk; MLflow is told by `reach`.

    So there is no moment at which MLflow has a run that nobody here knows of: a process that is
    killed now leaves a folder in which `sumgrad list` finds it.

    Args:
        job: What is to be run.
        client: Of its MLflow store.
        held: Lets go of the run's folder in the end.
        warn: Takes a line.
        tags: More tags for MLflow.

    Raises:
        OSError: The folder cannot be written.
    """
    facts, key = run_facts(job.spec, job.data, job.plan.shard_rows, tags), uuid.uuid4().hex
    record = RunRecord(
        run_id=key,
        key=key,
        name=job.spec.name,
        began=now(),
        tracking_uri=redact(job.spec.tracking.uri),
        facts=facts_as_json(facts),
        job=identity(job),
    )
    example = example_text(job.data.example, job.data.schema)
    folder = RunFolder.create(Path(job.spec.output) / key, record, facts.spec_yaml, example)
    held.enter_context(folder.held())
    return _begun(folder, Link(client, facts, key), warn)


def reach(job: Job, begun: Begun, client: TrackingClient, warn: Callable[[str], None]) -> None:
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


def go_on(folder: RunFolder, client: TrackingClient, warn: Callable[[str], None]) -> Begun:
    """Go on with a run that this process holds; MLflow is told by `reach_again`.

    Raises:
        JobError: The run's record is damaged.
    """
    return _begun(folder, link_to(folder, client), warn)


def reach_again(
    job: Job, begun: Begun, client: TrackingClient, warn: Callable[[str], None]
) -> None:
    """Tell MLflow that a run goes on, and have its folder say so.

    Raises:
        TrackingError: The store refuses.
    """
    folder = begun.folder
    before = folder.record
    folder.update(ending=None, is_delivered=False)
    try:
        _ask(job, client, begun.tracker.goes_on, warn)
    except TrackingError:
        # It does not go on, and is what it was.
        folder.update(ending=before.ending, is_delivered=before.is_delivered)
        raise


def _ask(
    job: Job,
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
    if is_server(tracking.uri) and tracking.outage == "spool":
        patience = PATIENCE_SECONDS
    try:
        if patience is not None:
            client.prepare()
        in_background("ask", question).result(patience)
    except (TrackingUnreachable, TimeoutError) as error:
        if tracking.outage == "fail":
            raise
        why = (
            error.message
            if isinstance(error, TrackingError)
            else f"the MLflow server at {redact(tracking.uri)} has not answered in {patience:g} s"
        )
        warn(
            f"WARNING: {why}; training goes on, and everything is kept for it "
            "(tracking.outage=fail does not begin)"
        )


def _begun(folder: RunFolder, link: Link, warn: Callable[[str], None]) -> Begun:
    def note(linked: RunRef) -> None:
        # On a disk that is full nothing is noted, and the run is found again by its key.
        with suppress(OSError):
            folder.update(mlflow_run_id=linked.run_id)

    # A late answer may come at this very moment.
    link.on_made = note
    if link.linked_now is not None:
        note(link.linked_now)
    journal = Journal(folder.journal_path, warn)
    return Begun(folder, link, RunTracker(link, warn, journal), journal)


def starting_point(job: Job, folder: RunFolder, warn: Callable[[str], None]) -> Checkpoint | None:
    """Where an earlier run was; None if it has no checkpoint yet.

    Raises:
        CheckpointError: It is another job's, or none of its checkpoints can be used.
    """
    checkpoint = folder.checkpoints().newest(warn)
    before = folder.record.job if checkpoint is None else checkpoint.job
    if before is not None:
        expect_same_job(before, identity(job), folder.record.run_id)
    if checkpoint is None:
        return None
    shape, dtype = (job.network.layout.size,), job.network.dtype
    if any(
        name in ("W", "good", "best") and (array.shape != shape or array.dtype != dtype)
        for name, array in checkpoint.snapshot.arrays.items()
    ):
        raise CheckpointError(f"the checkpoint in {folder.path} is not of this network")
    return checkpoint
