"""Starting a run or resuming one: its directory, its registration in MLflow, its checkpoint."""

import shutil
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from sumgrad.jobs.errors import CheckpointError
from sumgrad.jobs.runs.build import TrainingJob
from sumgrad.jobs.runs.checkpoints import Checkpoint
from sumgrad.jobs.runs.directory import RunDirectory, new_run_id, now
from sumgrad.jobs.runs.signature import compute_signature, signature_of_resumed
from sumgrad.jobs.spec.text import dump_spec
from sumgrad.jobs.support.redaction import redact
from sumgrad.jobs.tracking.metadata import (
    Context,
    DatasetMetadata,
    RunEnd,
    RunMetadata,
    RunRecord,
    source_tags,
)
from sumgrad.jobs.tracking.model_logging import example_text
from sumgrad.jobs.tracking.outbox import Outbox
from sumgrad.jobs.tracking.run_tracker import RunTracker

#: MLflow's names for the splits of a spec.
_CONTEXTS: dict[str, Context] = {"train": "training", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class ActiveRun:
    """A run that this process has locked and trains."""

    job: TrainingJob
    directory: RunDirectory
    tracker: RunTracker  #: Delivers it to MLflow.
    outbox: Outbox  #: Takes its metrics.
    checkpoint: Checkpoint | None = None  #: Where it continues; None for the initial weights.


def create(
    job: TrainingJob, tracker: RunTracker, locks: ExitStack, tags: Mapping[str, str]
) -> ActiveRun:
    """Create a new run on disk, have it registered in MLflow, and let `locks` hold its lock.

    The directory comes first, so that `sumgrad runs` finds the run of a process that was killed.
    """
    record = RunRecord(
        run_id=new_run_id(job.spec.name),
        key=uuid.uuid4().hex,
        started=now(),
        tracking_uri=redact(job.spec.tracking.uri),
        metadata=_describe(job, tracker.folder, tags),
        signature=compute_signature(job),
    )
    example = example_text(job.data.example, job.data.schema)
    path = Path(job.spec.output) / record.run_id
    directory = RunDirectory.create(path, record, example, locks)
    tracker.start(directory.path)
    return ActiveRun(job, directory, tracker, Outbox(directory.path))


def _describe(job: TrainingJob, folder: Path, tags: Mapping[str, str]) -> RunMetadata:
    """Return what MLflow is sent about a run of a folder when it starts, without secrets."""
    uri = redact(job.spec.tracking.uri)
    tracking = job.spec.tracking.model_copy(update={"uri": uri})
    spec = job.spec.model_copy(update={"tracking": tracking})
    return RunMetadata(
        name=spec.name,
        experiment=tracking.experiment,
        spec=spec.model_dump(mode="json"),
        spec_yaml=dump_spec(spec),
        datasets=[
            DatasetMetadata(context, f"{spec.name}-{split}", rows.source, rows.digest, rows.count)
            for split, context in _CONTEXTS.items()
            if (rows := getattr(job.data, split)) is not None
        ],
        tags={
            **source_tags(folder),
            "sumgrad.version": metadata.version("sumgrad"),
            "sumgrad.seed": str(spec.seed),
            "sumgrad.microbatch_size": str(job.plan.microbatch_size),
            "sumgrad.address": spec.cluster.address,
            "sumgrad.data_digest": job.data.digest,
            **tags,
        },
        folder=folder,
    )


def reopen(
    job: TrainingJob, tracker: RunTracker, directory: RunDirectory, allow_code_change: bool
) -> ActiveRun:
    """Resume a run that this process has locked, from its newest checkpoint if it has one.

    Raises:
        CheckpointError: The job, or the code unless allowed, has changed, or none is intact.
    """
    checkpoint = directory.checkpoints().newest()
    signature = signature_of_resumed(
        directory.record.signature if checkpoint is None else checkpoint.signature,
        compute_signature(job),
        directory.record.run_id,
        allow_code_change=allow_code_change,
    )
    expected = (job.network.layout.size,), np.dtype(job.network.dtype)
    arrays = {} if checkpoint is None else checkpoint.snapshot.arrays
    for name in ("W", "last_finite", "best"):
        if name in arrays and (arrays[name].shape, arrays[name].dtype) != expected:
            raise CheckpointError(f"the checkpoint in {directory.path} is of another network")
    directory.update(end=None, signature=signature, tracking_uri=redact(job.spec.tracking.uri))
    tracker.start(directory.path, resumed=True)
    return ActiveRun(job, directory, tracker, Outbox(directory.path), checkpoint)


def undo_start(run: ActiveRun, earlier: RunRecord | None) -> None:
    """Undo the start of a run that MLflow refuses, given the earlier record of a resumed one.

    A new run is removed unless it has checkpoints.
    """
    # Otherwise the tracker would keep trying to register the run.
    run.tracker.close()
    if earlier is not None:
        uri = earlier.tracking_uri
        run.directory.update(end=earlier.end, signature=earlier.signature, tracking_uri=uri)
    elif not run.directory.checkpoints().paths():
        shutil.rmtree(run.directory.path, ignore_errors=True)
    else:
        run.directory.update(end=RunEnd("FAILED", str(run.tracker.refusal)))
