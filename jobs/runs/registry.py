"""Listing the runs of a folder."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sumgrad.jobs.errors import RunLocked
from sumgrad.jobs.runs.directory import RunDirectory, all_runs, run_folders
from sumgrad.jobs.runs.sync import sync
from sumgrad.jobs.support.text import align_columns, describe_error, plural
from sumgrad.jobs.tracking.metadata import RECORD
from sumgrad.model.errors import SumgradError

_COLUMNS = ("run", "status", "why", "checkpoint", "started (UTC)")
_logger = logging.getLogger(__name__)


def list_runs(output: Path) -> list[dict[str, Any]]:
    """Return the runs of a folder as JSON-compatible rows, the newest first.

    A run whose process was killed is recorded as KILLED, in MLflow too if its store answers.
    """
    runs = all_runs(output)
    for run in runs:
        _record_orphan(run)
    for path in set(run_folders(output)) - {run.path for run in runs}:
        _logger.warning("%s is left out: its %s is missing or damaged", path, RECORD)
    undelivered = sum(run.record.end is not None and not run.is_delivered for run in runs)
    if undelivered:
        problem = f"{plural(undelivered, 'run')} not completely delivered to MLflow"
        _logger.warning("%s; 'sumgrad sync' delivers the rest", problem)
    return [_row(run) for run in runs]


def _record_orphan(run: RunDirectory) -> None:
    if run.record.end is not None or run.is_locked:
        return
    try:
        sync(run)
    except RunLocked:
        pass  # Another process has just resumed it.
    except (SumgradError, OSError) as error:
        # MLflow is away, the disk is full, or this user may not write there.
        state = "MLflow still shows it as running" if run.mlflow_run_id else "it is not in MLflow"
        _logger.warning("run %s: %s: %s", run.record.run_id, state, describe_error(error))


def _row(run: RunDirectory) -> dict[str, Any]:
    record, status = run.record, run.status
    newest = next(iter(run.checkpoints().paths()), None)
    return {
        "run_id": record.run_id,
        "mlflow_run_id": run.mlflow_run_id,
        "name": record.metadata.name,
        "status": status,
        "stop_reason": record.end.stop_reason if record.end else None,
        "can_resume": record.end.can_resume if record.end else status == "KILLED",
        "is_delivered": run.is_delivered,
        "checkpoint": str(newest) if newest else None,
        "started": record.started,
        "folder": str(run.path),
    }


def format_run_table(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Format the runs as lines of a table."""
    if not runs:
        return ["no runs here; start one with: sumgrad train digits"]
    rows = [_COLUMNS]
    for run in runs:
        checkpoint = Path(run["checkpoint"]).name if run["checkpoint"] else "-"
        started = run["started"][:19].replace("T", " ")
        stop_reason = run["stop_reason"] or "-"
        rows.append((run["run_id"], run["status"], stop_reason, checkpoint, started))
    return align_columns(rows)
