"""What a resumed run records, and what is left if MLflow refuses it."""

import io
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from sumgrad.jobs.data.prepare import prepare
from sumgrad.jobs.errors import TrackingError
from sumgrad.jobs.runs.backend import open_reducer
from sumgrad.jobs.runs.build import TrainingJob, build_job
from sumgrad.jobs.runs.directory import RunDirectory
from sumgrad.jobs.runs.progress import PlainReporter
from sumgrad.jobs.runs.signals import StopRequest
from sumgrad.jobs.runs.start import create, reopen, undo_start
from sumgrad.jobs.runs.train_loop import run_training
from sumgrad.jobs.spec.loader import load_spec
from sumgrad.jobs.spec.paths import resolve_paths
from sumgrad.jobs.tracking.metadata import RunEnd

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
        undo_start(run, earlier)
    assert RunDirectory.open(directory.path).record == earlier


def test_a_refusal_after_the_first_step_keeps_what_was_computed(tmp_path: Path) -> None:
    overrides = [f"output={tmp_path}", "cluster.address=inline", "checkpoint.every_seconds=null"]
    spec = resolve_paths(load_spec("digits", overrides).spec, tmp_path)
    refusal = TrackingError("the experiment is deleted")
    tracker: Any = Mock(refusal=refusal, folder=tmp_path)
    tracker.raise_if_refused.side_effect = [None, refusal]
    job: Future[TrainingJob] = Future()
    job.set_result(build_job(spec, prepare(spec)))
    with ExitStack() as locks, StopRequest() as stop:
        run = create(job.result(), tracker, locks, {})
        with (
            open_reducer(spec.cluster, job, stop, waits_for_nodes=False) as reducer,
            pytest.raises(TrackingError, match="is deleted"),
        ):
            run_training(run, reducer, PlainReporter(io.StringIO()), stop)
        undo_start(run, None)
    directory = RunDirectory.open(run.directory.path)
    checkpoint = directory.checkpoints().newest()
    assert checkpoint is not None
    assert checkpoint.snapshot.step == 1
    assert directory.record.end == RunEnd("FAILED", "the experiment is deleted")
