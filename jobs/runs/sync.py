"""Delivering runs that have ended to MLflow."""

from sumgrad.jobs.config.tracking_uri import with_credentials
from sumgrad.jobs.errors import TrackingError
from sumgrad.jobs.runs.directory import RunDirectory
from sumgrad.jobs.support.redaction import is_redacted
from sumgrad.jobs.tracking.delivery import deliver
from sumgrad.jobs.tracking.metadata import RunEnd
from sumgrad.jobs.tracking.store import open_store

#: How a run ended whose process was killed.
ORPHANED = RunEnd("KILLED", "killed", {"sumgrad.stop_reason": "killed"}, 0, can_resume=True)


def sync(directory: RunDirectory, tracking_uri: str) -> bool:
    """Deliver what MLflow lacks of a run. A run whose process was killed gets the status KILLED.

    Args:
        directory: The run.
        tracking_uri: The store, with its secrets.

    Returns:
        Whether MLflow has everything now.

    Raises:
        RunLocked: The run is still running.
        TrackingError: The store does not answer, or refuses.
    """
    with directory.lock():
        # It may have ended just now.
        return deliver_locked(RunDirectory.open(directory.path), tracking_uri)


def deliver_locked(directory: RunDirectory, tracking_uri: str) -> bool:
    """Deliver a run that the caller has locked, as `sync` does."""
    if directory.record.end is None:
        directory.update(end=ORPHANED)
    end = directory.record.end or ORPHANED
    return deliver(directory.tracked, end, lambda: open_store(tracking_uri))


def require_credentials(uri: str) -> str:
    """Return a recorded URI with the secrets that the record does not keep.

    Raises:
        TrackingError: The environment does not have them.
    """
    found = with_credentials(uri)
    if is_redacted(found):
        raise TrackingError(
            f"the run was tracked at {uri}, and its credentials are not stored",
            hint="put the whole address into MLFLOW_TRACKING_URI, or for a server user and "
            "password into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    return found
