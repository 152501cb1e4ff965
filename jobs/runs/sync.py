"""Telling MLflow of a run that has ended: at once, or later from the run's folder."""

from collections.abc import Callable
from typing import cast

from sumgrad.jobs.config.tracking_uri import with_credentials
from sumgrad.jobs.errors import JobError, TrackingError
from sumgrad.jobs.runs.directory import RunDirectory, RunEnd, facts_from_json
from sumgrad.jobs.support.redaction import is_redacted
from sumgrad.jobs.tracking import DirectClient, Journal, Link, RunTracker, open_store
from sumgrad.jobs.tracking.client import Status, TrackingClient
from sumgrad.jobs.tracking.run_tracker import PATIENCE_SECONDS

#: What a run is given whose process was killed, and which nobody has gone on with.
ORPHANED = RunEnd("KILLED", "killed", {"sumgrad.stop_reason": "killed"}, 0, can_resume=True)
#: How long `sync` waits for a store that takes nothing.
_SYNC_SECONDS = 30.0


def deliver(
    folder: RunDirectory,
    tracker: RunTracker,
    warn: Callable[[str], None],
    *,
    patience: float = PATIENCE_SECONDS,
) -> bool:
    """Give an ended run its model, tags and status in MLflow.

    Args:
        folder: The run's.
        tracker: Leads to MLflow.
        warn: Takes a line where something is missing.
        patience: How long to wait for a store that takes nothing, in seconds.

    Returns:
        Whether MLflow knows everything now; if not, `sync` can go on with it.
    """
    record = folder.record
    ending = record.end
    assert ending is not None  # noqa: S101 - it has ended
    # The process that has it may have been started a moment ago.
    tracker.prepare()
    wants_model = ending.status != "KILLED" and folder.model.is_dir()
    if wants_model and not record.is_model_logged:
        # A run that was told to end has only seconds left; its model is on disk.
        try:
            model_id = tracker.log_model(folder.model, folder.example_path, ending.step)
            folder.update(is_model_logged=model_id is not None)
        except JobError as error:
            warn(f"the model could not be logged to MLflow: {error.message}")
    delivery = tracker.finish(cast("Status", ending.status), ending.tags, patience=patience)
    is_complete = delivery.is_status_set and folder.record.is_model_logged >= wants_model
    if is_complete:
        folder.update(is_delivered=True)
    return is_complete


def sync(folder: RunDirectory, tracking_uri: str, warn: Callable[[str], None]) -> bool:
    """Deliver what MLflow does not know of a run; one whose process was killed is KILLED.

    Args:
        folder: The run's.
        tracking_uri: With its secrets.
        warn: Takes a line.

    Returns:
        Whether MLflow knows everything now.

    Raises:
        RunLocked: It is still running.
        TrackingError: The store does not answer, or refuses.
    """
    with folder.lock():
        if folder.record.end is None:
            folder.update(end=ORPHANED, is_delivered=False)
        link = link_to(folder, DirectClient(lambda: open_store(tracking_uri)))
        link.linked()
        tracker = RunTracker(link, warn, Journal(folder.journal_path, warn))
        return deliver(folder, tracker, warn, patience=_SYNC_SECONDS)


def link_to(folder: RunDirectory, client: TrackingClient) -> Link:
    """The link to an earlier run.

    Raises:
        JobError: Its record is damaged.
    """
    record = folder.record
    try:
        facts = facts_from_json(record.facts)
    except (KeyError, TypeError) as error:
        raise JobError(f"{folder.path}: run.json is damaged: {error}") from error
    link = Link(
        client,
        facts,
        record.key,
        run_id=record.mlflow_run_id,
        made_before=True,
    )
    link.on_made = lambda linked: folder.update(mlflow_run_id=linked.run_id)
    return link


def require_credentials(uri: str) -> str:
    """The URI of a run's record, with the secrets that the record does not keep.

    Args:
        uri: Of the record.

    Returns:
        It, or where it had secrets what the environment has instead.

    Raises:
        TrackingError: It had a user, a password or the like, and the environment has none.
    """
    found = with_credentials(uri)
    if is_redacted(found):
        raise TrackingError(
            f"the run was tracked at {uri}, and its credentials are not kept",
            hint="put the whole address into MLFLOW_TRACKING_URI, or for a server user and "
            "password into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    return found
