"""Runs of a folder: listed, put right where their process was killed, and told to MLflow."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sumgrad.jobs.errors import RunLocked
from sumgrad.jobs.runs.directory import EXAMPLE, RECORD, RunDirectory, all_runs, find_run
from sumgrad.jobs.runs.sync import ORPHANED, require_credentials, sync
from sumgrad.jobs.tracking.store import first_line
from sumgrad.model.errors import SumgradError

_COLUMNS = ("run", "name", "status", "why", "checkpoint", "began (UTC)")


def list_runs(output: Path, warn: Callable[[str], None]) -> list[dict[str, Any]]:
    """The runs of a folder, the newest first, as JSON can hold them.

    A run whose process was killed is recorded as KILLED, in MLflow too if its store answers.
    """
    runs = [_put_right(run, warn) for run in all_runs(output)]
    for path in set(_look_like_runs(output)) - {run.path for run in runs}:
        warn(f"{path} is left out: its {RECORD} is missing or damaged")
    behind = sum(run.record.end is not None and not run.record.is_delivered for run in runs)
    if behind:
        warn(f"MLflow does not know all of {behind} of these: sumgrad sync tells it")
    return [_row(run) for run in runs]


def _look_like_runs(output: Path) -> list[Path]:
    """Folders that a run has left something in; a job's of a cluster has a spec, and no example."""
    if not output.is_dir():
        return []
    names = (RECORD, EXAMPLE, "checkpoints")
    return [path.absolute() for path in output.iterdir() if any((path / n).exists() for n in names)]


def _put_right(run: RunDirectory, warn: Callable[[str], None]) -> RunDirectory:
    if run.record.end is not None or run.is_locked:
        return run
    try:
        sync(run, require_credentials(run.record.tracking_uri), warn)
    except RunLocked:
        pass  # Somebody has begun to go on with it.
    except SumgradError as error:
        with suppress(RunLocked), run.lock():
            run = RunDirectory.open(run.path)
            if run.record.end is None:
                run.update(end=ORPHANED)
        warn(f"run {run.record.run_id}: MLflow still has it as running: {error.message}")
    return RunDirectory.open(run.path)


def _row(run: RunDirectory) -> dict[str, Any]:
    record = run.record
    newest = next(iter(run.checkpoints().paths()), None)
    return {
        "run_id": record.mlflow_run_id or record.run_id,
        "name": record.name,
        "status": run.status,
        "stop_reason": record.end.stop_reason if record.end else None,
        "can_resume": record.end.can_resume if record.end else False,
        "is_delivered": record.is_delivered,
        "checkpoint": str(newest) if newest else None,
        "began": record.began,
        "folder": str(run.path),
    }


def table(runs: Sequence[dict[str, Any]]) -> list[str]:
    """The runs as lines for a person."""
    if not runs:
        return ["no runs here; start one with: sumgrad train digits"]
    rows = [_COLUMNS]
    for run in runs:
        checkpoint = Path(run["checkpoint"]).name if run["checkpoint"] else "-"
        why = run["stop_reason"] or "-"
        began = run["began"][:19].replace("T", " ")
        rows.append((run["run_id"][:8], run["name"], run["status"], why, checkpoint, began))
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table as lines with their columns below each other."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def sync_runs(name: str | None, output: Path, tracking_uri: str | None) -> tuple[list[str], bool]:
    """Deliver what MLflow lacks of one run, or of all.

    Returns:
        A line for each run, and whether MLflow knows everything now.

    Raises:
        RunNotFound: There is no such run.
    """
    if name is not None:
        runs = [find_run(name, output)]
    else:
        runs = [r for r in all_runs(output) if not r.record.is_delivered and not r.is_locked]
    busy = [r.record.run_id[:8] for r in all_runs(output) if name is None and r.is_locked]
    lines = [f"{short} left out: it is in hand of a process" for short in busy]
    if not runs:
        return [*lines, "MLflow knows everything" + (" of the others" if busy else "")], True
    complete = True
    for run in runs:
        short = run.record.run_id[:8]
        warnings: list[str] = []
        try:
            uri = tracking_uri or require_credentials(run.record.tracking_uri)
            is_complete = sync(run, uri, warnings.append)
            line = f"{short} delivered" if is_complete else f"{short} NOT delivered"
        except SumgradError as error:
            is_complete, line = False, f"{short} NOT delivered: {first_line(error)}"
        lines += [f"{short} {warning}" for warning in warnings] + [line]
        complete = complete and is_complete
    return lines, complete
