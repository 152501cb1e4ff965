"""What a resumed run records, and what is left if MLflow refuses it."""

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sumgrad.jobs.data.prepare import prepare
from sumgrad.jobs.runs.build import build_job
from sumgrad.jobs.runs.directory import RunDirectory
from sumgrad.jobs.runs.start import create, reopen, undo
from sumgrad.jobs.spec.loader import load_spec
from sumgrad.jobs.spec.paths import resolve_paths

ELSEWHERE = "http://elsewhere:5000"


def fake_tracker(folder: Path) -> Any:
    """Return the part of a tracker that starting a run uses."""
    return SimpleNamespace(start=lambda *_, **__: None, close=lambda: None, folder=folder)


def test_a_run_belongs_to_the_folder_of_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Ray starts, which it does at the same time, the process has another one."""
    name = "n" * 100
    spec = resolve_paths(load_spec("digits", [f"name={name}"]).spec, tmp_path)
    folder = tmp_path / "users"
    monkeypatch.chdir(tmp_path)
    with ExitStack() as locks:
        run = create(build_job(spec, prepare(spec)), fake_tracker(folder), locks, {})
    assert run.directory.record.metadata.folder == folder
    assert run.directory.path.name.startswith(f"{name}-")


def test_a_run_that_is_resumed_with_another_store_is_tracked_there(tmp_path: Path) -> None:
    overrides = [f"output={tmp_path}", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]
    spec = resolve_paths(load_spec("digits", overrides).spec, tmp_path)
    tracking = spec.tracking.model_copy(update={"uri": ELSEWHERE})
    data = prepare(spec)
    tracker = fake_tracker(tmp_path)
    with ExitStack() as locks:
        run = create(build_job(spec, data), tracker, locks, {})
        directory, earlier = run.directory, run.directory.record
        other = build_job(spec.model_copy(update={"tracking": tracking}), data)
        run = reopen(other, tracker, directory, allow_code_change=False)
        assert RunDirectory.open(directory.path).record.tracking_uri == ELSEWHERE
        undo(run, earlier)
    assert RunDirectory.open(directory.path).record == earlier
