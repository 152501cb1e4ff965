"""The runs of a folder: listing, finding and delivering them."""

import errno
import io
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sumgrad.jobs.cli.app import run
from sumgrad.jobs.errors import RunAmbiguous, RunLocked, RunNotFound, SpecError
from sumgrad.jobs.runs import sync as sync_module
from sumgrad.jobs.runs import training
from sumgrad.jobs.runs.directory import RunDirectory, find_run
from sumgrad.jobs.runs.progress import PlainReporter
from sumgrad.jobs.runs.registry import list_runs
from sumgrad.jobs.runs.sync import sync, sync_runs
from sumgrad.jobs.spec.loader import load_spec
from sumgrad.jobs.tracking.metadata import RunEnd
from sumgrad.jobs.tracking.outbox import Receipt, read_points
from tests.jobs.runs.records import RECORD_OF_A_RUN
from tests.jobs.service.environment import isolate_user

RUN = "job-abc123"


def make_run(output: Path, run_id: str = RUN) -> RunDirectory:
    record = replace(RECORD_OF_A_RUN, run_id=run_id)
    directory = RunDirectory.create(output / run_id, record)
    Receipt("m" * 32, end=record.end).write(directory.path)
    return directory


def test_folders_of_submitted_jobs_are_not_taken_for_damaged_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_run(tmp_path)
    job = tmp_path / "digits-1"
    job.mkdir()
    (job / "spec.yaml").write_text("name: digits\n")
    make_run(job / "runs")
    (row,) = list_runs(tmp_path)
    assert (row["run_id"], row["mlflow_run_id"], row["is_delivered"]) == (RUN, "m" * 32, True)
    assert caplog.messages == []


def test_a_damaged_run_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = make_run(tmp_path)
    (directory.path / "run.json").write_text("")
    assert list_runs(tmp_path) == []
    expected = f"{directory.path} is left out: its run.json is missing or damaged"
    assert caplog.messages == [expected]
    (directory.path / "run.json").unlink()
    assert list_runs(tmp_path) == []
    assert caplog.messages == [expected] * 2


def test_a_run_whose_process_was_killed_is_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = make_run(tmp_path)
    directory.update(end=None)
    with directory.lock():
        (row,) = list_runs(tmp_path)
        assert (row["status"], row["can_resume"]) == ("RUNNING", False)
    (row,) = list_runs(tmp_path)
    assert (row["status"], row["stop_reason"], row["can_resume"]) == ("KILLED", "killed", True)
    assert not row["is_delivered"]
    assert "MLflow still shows it as running" in caplog.text


def test_a_run_is_locked_before_other_processes_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, seen = Path.rename, []

    def list_and_rename(self: Path, target: Path) -> Path:
        seen.append(list_runs(tmp_path))
        renamed = rename(self, target)
        seen.append(list_runs(tmp_path))
        return renamed

    monkeypatch.setattr(Path, "rename", list_and_rename)
    record = replace(RECORD_OF_A_RUN, end=None)
    with ExitStack() as locks:
        directory = RunDirectory.create(tmp_path / RUN, record, "", locks)
        assert [[row["status"] for row in rows] for rows in seen] == [[], ["RUNNING"]]
        with pytest.raises(RunLocked, match=f"by process {os.getpid()}"):
            sync(RunDirectory.open(directory.path))
    with directory.lock():
        assert directory.record == record


def test_runs_are_found_by_id_mlflow_id_and_unique_prefix(tmp_path: Path) -> None:
    make_run(tmp_path)
    other = make_run(tmp_path, f"{RUN}4")
    for name in (RUN, str(tmp_path / RUN)):
        assert find_run(name, tmp_path).path.name == RUN
    for name in (f"{RUN}4", "n" * 5, "n" * 32):
        Receipt("n" * 32).write(other.path)
        assert find_run(name, tmp_path).path == other.path
    with pytest.raises(RunAmbiguous, match="several runs"):
        find_run("job", tmp_path)
    with pytest.raises(RunNotFound, match="no run jobx"):
        find_run("jobx", tmp_path)


def test_sync_reports_each_run(tmp_path: Path) -> None:
    assert sync_runs(None, tmp_path, None) == (["MLflow has everything"], True)
    directory = make_run(tmp_path)
    assert sync_runs(None, tmp_path, None) == (["MLflow has everything"], True)
    Receipt().write(directory.path)
    (line,), is_complete = sync_runs(None, tmp_path, None)
    assert line.startswith(f"{RUN} NOT delivered: the MLflow server at http://127.0.0.1:9 ")
    assert not is_complete
    with directory.lock():
        left_out = [f"{RUN} is left out: it is running", "MLflow has everything else"]
        assert sync_runs(None, tmp_path, None) == (left_out, True)


def test_sync_resolves_the_address_of_another_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    directory = make_run(tmp_path)
    Receipt().write(directory.path)
    opened: list[str] = []

    def deliver(_path: Path, _end: RunEnd, open_store: Callable[[], None]) -> bool:
        open_store()
        return True

    monkeypatch.setattr(sync_module, "open_store", opened.append)
    monkeypatch.setattr(sync_module, "deliver", deliver)
    assert sync_runs(None, tmp_path, "sqlite:///other.db") == ([f"{RUN} delivered"], True)
    assert opened == [f"sqlite:///{tmp_path}/other.db"]
    with pytest.raises(SpecError, match="unknown scheme 'foo'"):
        sync_runs(None, tmp_path, "foo://other")


def test_a_run_that_was_killed_before_its_first_metric_can_be_delivered(tmp_path: Path) -> None:
    assert read_points(make_run(tmp_path).path, 0, 10) == ([], 0)


def test_a_full_disk_fails_only_the_run_that_it_concerns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for run_id in (RUN, f"{RUN}4"):
        make_run(tmp_path, run_id).update(end=None)

    def update(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RunDirectory, "update", update)
    rows = list_runs(tmp_path)
    assert [(row["status"], row["can_resume"]) for row in rows] == [("KILLED", True)] * 2
    assert len(caplog.messages) == 2
    assert all("No space left on device" in message for message in caplog.messages)
    lines, is_complete = sync_runs(None, tmp_path, None)
    assert sorted(lines) == [
        f"{RUN} NOT delivered: No space left on device",
        f"{RUN}4 NOT delivered: No space left on device",
    ]
    assert not is_complete


def test_runs_in_a_folder_that_this_user_cannot_write_are_killed_or_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_run(tmp_path)
    directory.update(end=None)
    with directory.lock():
        _deny_writing(monkeypatch)
        assert RunDirectory.open(directory.path).status == "RUNNING"
    assert RunDirectory.open(directory.path).status == "KILLED"
    assert list_runs(tmp_path)[0]["status"] == "KILLED"


def _deny_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let only reading of files succeed; file permissions do not apply to root."""
    open_file = os.open

    def deny(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return open_file(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", deny)


@pytest.mark.parametrize("command", [["runs"], ["resume", RUN], ["sync", RUN]])
def test_the_environment_names_the_folder_of_the_runs(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = isolate_user(tmp_path, monkeypatch)
    make_run(home / "out")
    for given in (str(home / "out"), "~/out"):
        monkeypatch.setenv("SUMGRAD_OUTPUT", given)
        run(command)
        output = capsys.readouterr()
        assert "no run" not in output.out + output.err
    run([*command, "--output", "elsewhere"])
    output = capsys.readouterr()
    assert "no run" in output.out + output.err, "the option overrides the environment"


@pytest.mark.parametrize("is_delivered", [True, False])
def test_resume_delivers_a_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_delivered: bool
) -> None:
    directory = RunDirectory.create(tmp_path / RUN, RECORD_OF_A_RUN)
    summary: Any = SimpleNamespace(run_id=RUN, is_delivered=is_delivered)
    monkeypatch.setattr(training, "deliver_finished", lambda *_: summary)
    spec = load_spec("digits", [f"output={tmp_path}"]).spec
    found, error = training.resume(directory, spec, PlainReporter(io.StringIO()))
    assert found is summary
    problem = None if is_delivered else f"run {RUN} is not completely delivered to MLflow"
    assert (error and error.message) == problem
