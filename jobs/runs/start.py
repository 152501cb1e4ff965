"""Starting a run or resuming one: its directory, its registration in MLflow, its checkpoint."""

import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sumgrad.jobs.errors import CheckpointError
from sumgrad.jobs.runs.checkpoints import Checkpoint
from sumgrad.jobs.runs.directory import RunDirectory, new_run_id
from sumgrad.jobs.runs.job import TrainingJob
from sumgrad.jobs.runs.metadata import describe_run
from sumgrad.jobs.runs.record import RunRecord, now
from sumgrad.jobs.runs.signature import compute_signature, signature_of_resumed
from sumgrad.jobs.support.redaction import redact
from sumgrad.jobs.tracking.input_example import example_text
from sumgrad.jobs.tracking.metadata import RunEnd
from sumgrad.jobs.tracking.outbox import Outbox
from sumgrad.jobs.tracking.run_tracker import RunTracker


@dataclass(frozen=True)
class ActiveRun:
    """A run that this process trains.

    Attributes:
        directory: The run on disk; locked by this process.
        outbox: Takes its metrics.
        tracker: Delivers it to MLflow.
    """

    directory: RunDirectory
    outbox: Outbox
    tracker: RunTracker


def create(
    job: TrainingJob, tracker: RunTracker, locks: ExitStack, tags: Mapping[str, str]
) -> ActiveRun:
    """Create a new run on disk, and have it registered in MLflow.

    The directory comes first, so that `sumgrad runs` finds the run of a process that was killed.

    Args:
        job: The job.
        tracker: Delivers the run.
        locks: Releases the run's lock at the end.
        tags: Further tags for MLflow.

    Raises:
        OSError: The directory cannot be written.
    """
    metadata = describe_run(job.spec, job.data, job.plan.microbatch_size, tags)
    record = RunRecord(
        run_id=new_run_id(job.spec.name),
        key=uuid.uuid4().hex,
        started=now(),
        tracking_uri=redact(job.spec.tracking.uri),
        metadata=metadata,
        signature=compute_signature(job),
    )
    path = Path(job.spec.output) / record.run_id
    example = example_text(job.data.example, job.data.schema)
    directory = RunDirectory.create(path, record, metadata.spec_yaml, example)
    locks.enter_context(directory.lock())
    tracker.start(directory.tracked)
    return ActiveRun(directory, Outbox(path), tracker)


def reopen(directory: RunDirectory, tracker: RunTracker, signature: Mapping[str, Any]) -> ActiveRun:
    """Resume a run that this process has locked, and have MLflow show it as RUNNING.

    Args:
        directory: The run.
        tracker: Delivers it.
        signature: The run's signature from here on.

    Raises:
        OSError: The directory cannot be written.
    """
    directory.update(end=None, signature=signature)
    tracker.start(directory.tracked, resumed=True)
    return ActiveRun(directory, Outbox(directory.path), tracker)


def undo(run: ActiveRun, earlier: RunRecord | None) -> None:
    """Undo the start of a run that MLflow refuses.

    Args:
        run: The run.
        earlier: The record of a resumed run. None for a new one, which is removed unless it has
            checkpoints.
    """
    # It would continue to register the run.
    run.tracker.close()
    if earlier is not None:
        run.directory.update(end=earlier.end, signature=earlier.signature)
    elif not run.directory.checkpoints().paths():
        run.directory.remove()
    else:
        reason = str(run.tracker.refusal)
        tags = {"sumgrad.stop_reason": reason}
        run.directory.update(end=RunEnd("FAILED", reason, tags, 0, can_resume=True))


def load_checkpoint(
    job: TrainingJob, directory: RunDirectory, *, allow_code_change: bool = False
) -> tuple[Checkpoint | None, Mapping[str, Any]]:
    """Load the newest checkpoint of a run.

    Args:
        job: The job that resumes the run.
        directory: The run.
        allow_code_change: Whether other code than the checkpoint's may resume it.

    Returns:
        The checkpoint, or None if there is none, and the run's signature from here on.

    Raises:
        CheckpointError: The job has changed, or all checkpoints are damaged.
    """
    checkpoint = directory.checkpoints().newest()
    signature = signature_of_resumed(
        directory.record.signature if checkpoint is None else checkpoint.signature,
        compute_signature(job),
        directory.record.run_id,
        allow_code_change=allow_code_change,
    )
    if checkpoint is None:
        return None, signature
    shape, dtype = (job.network.layout.size,), job.network.dtype
    if any(
        name in ("W", "last_finite", "best") and (array.shape != shape or array.dtype != dtype)
        for name, array in checkpoint.snapshot.arrays.items()
    ):
        raise CheckpointError(f"the checkpoint in {directory.path} is of another network")
    return checkpoint, signature
