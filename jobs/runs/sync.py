"""Delivering runs that have ended to MLflow."""

from pathlib import Path

from sumgrad.jobs.config.tracking_uri import resolve_tracking_uri, with_credentials
from sumgrad.jobs.errors import TrackingError
from sumgrad.jobs.runs.directory import RunDirectory, all_runs, find_run
from sumgrad.jobs.support.redaction import is_redacted
from sumgrad.jobs.support.text import describe_error
from sumgrad.jobs.tracking.delivery import deliver
from sumgrad.jobs.tracking.metadata import RunEnd
from sumgrad.jobs.tracking.store import open_store
from sumgrad.model.errors import SumgradError

ORPHANED = RunEnd("KILLED", "killed")  #: The end of a run whose process was killed.


def sync(directory: RunDirectory, tracking_uri: str | None = None) -> bool:
    """Deliver what MLflow lacks of a run, and return whether it has everything now.

    A run whose process was killed gets the status KILLED first. By default MLflow's URI is the one
    that the run was tracked at.

    Raises:
        RunLocked: The run is still running.
        TrackingError: The store does not answer, or refuses.
    """
    with directory.lock():
        end = directory.record.end or ORPHANED
        if end is ORPHANED:
            directory.update(end=end)
        uri = tracking_uri or require_credentials(directory.record.tracking_uri)
        return deliver(directory.path, end, lambda: open_store(uri))


def require_credentials(uri: str) -> str:
    """Return a recorded URI with its secrets; raise TrackingError if the environment lacks them."""
    found = with_credentials(uri)
    if is_redacted(found):
        raise TrackingError(
            f"the run was tracked at {uri}, and its credentials are not stored",
            hint="put the whole address into MLFLOW_TRACKING_URI, or for a server user and "
            "password into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
        )
    return found


def sync_runs(name: str | None, output: Path, tracking_uri: str | None) -> tuple[list[str], bool]:
    """Deliver what MLflow lacks of one run, or of all in a folder that have ended.

    `tracking_uri` selects another store, as the user typed it. Return a line for each run, and
    whether MLflow has everything now.

    Raises:
        RunNotFound: No run has that name.
        RunAmbiguous: Several runs have.
        SpecError: The URI is invalid.
    """
    if tracking_uri is not None:
        tracking_uri = resolve_tracking_uri(tracking_uri, Path.cwd())
    running: list[RunDirectory] = []
    if name is not None:
        chosen = [find_run(name, output)]
    else:
        runs = all_runs(output)
        running = [run for run in runs if run.is_locked]
        chosen = [run for run in runs if run not in running and not run.is_delivered]
    lines = [f"{run.record.run_id} is left out: it is running" for run in running]
    is_complete = True
    for run in chosen:
        try:
            is_delivered, problem = sync(run, tracking_uri), ""
        except (SumgradError, OSError) as error:
            is_delivered, problem = False, f": {describe_error(error)}"
        state = "delivered" if is_delivered else f"NOT delivered{problem}"
        lines.append(f"{run.record.run_id} {state}")
        is_complete = is_complete and is_delivered
    if not chosen:
        lines.append("MLflow has everything else" if running else "MLflow has everything")
    return lines, is_complete
