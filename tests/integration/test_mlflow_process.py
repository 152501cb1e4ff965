"""The process beside a real `sumgrad train` that delivers the run to MLflow.

Tests that depend on how the process starts, or on its session, start it as users do; the others
fork it.
"""

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import psutil
import pytest
from mlflow import MlflowClient

from sumgrad.jobs.artifacts.saved_model import load_model
from sumgrad.jobs.runs.directory import all_runs
from sumgrad.jobs.support.polling import wait_until
from sumgrad.jobs.tracking.run_tracker import RunTracker
from tests.integration import fork_server
from tests.integration.command_line import SUMGRAD, Command, Folder
from tests.jobs.tracking.test_run_tracker import wait_until_gone

ENDLESS = ("--set", "stop.max_epochs=1000000")
EPOCHS = 20


@contextmanager
def training(folder: Folder, *arguments: str) -> Iterator[Command]:
    """Run the command in a session of its own, as a shell would start it."""
    with subprocess.Popen(
        [SUMGRAD, "train", "flowers.yaml", *arguments],
        cwd=folder.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as command:
        try:
            yield command
        finally:
            command.kill()


@contextmanager
def paused_training(folder: Folder, *arguments: str) -> Iterator[Command]:
    """Run the command with a forked process for MLflow, and pause it after the first epoch."""
    with folder.start("train", "flowers.yaml", *arguments, pauses=[1]) as command:
        try:
            folder.wait_for_pause(command, 1)
            yield command
        finally:
            command.kill()


def wait_for_first_epoch(command: Command) -> None:
    assert command.stdout is not None
    assert any(line.startswith("epoch ") for line in command.stdout)


def wait_for_process(command: Command) -> int:
    """Return the id of the process for MLflow as soon as it runs."""
    while command.poll() is None:
        for child in psutil.Process(command.pid).children():
            if "sumgrad.jobs.tracking.mlflow_process" in child.cmdline():
                return child.pid
        time.sleep(0.001)
    raise AssertionError("the command has ended")


def wait_for_forked_process(folder: Folder, command: Command) -> int:
    """Return the id of the forked process for MLflow as soon as it runs."""
    assert wait_until(lambda: bool(forked_processes(folder, command)), 60, interval=0.01)
    (pid,) = forked_processes(folder, command)
    return pid


def forked_processes(folder: Folder, command: Command) -> list[int]:
    """Return the processes in a folder that the fork server has started for a command."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            is_forked = fork_server.__name__ in process.cmdline()
            is_other = process.pid != command.pid
            if is_forked and is_other and process.cwd() == str(folder.path):
                found.append(process.pid)
    return found


def check_nothing_left(command: Command) -> None:
    left = []
    for process in psutil.process_iter(["cmdline"]):
        with suppress(OSError, psutil.Error):
            if os.getsid(process.pid) == command.pid != process.pid:
                left.append(process.info["cmdline"])
    assert left == []


TRAIN = """
import sys
import time
from sumgrad.jobs.cli.app import run
from tests.integration.fork_server import forked_mlflow_processes
with forked_mlflow_processes():
    assert run(["train", "flowers.yaml"]) == 0
sys.stderr.write(repr({"mlflow", "sqlalchemy"} & sys.modules.keys()))
"""


def test_training_itself_does_not_import_mlflow(folder: Folder) -> None:
    done = folder.python(TRAIN)
    assert (done.code, done.err) == (0, "set()")
    assert folder.mlflow_run().info.status == "FINISHED"


def test_no_process_outlives_a_refused_command(folder: Folder) -> None:
    with training(folder, "--set", "data.label=colour") as command:
        output = command.communicate(timeout=60)[0]
        assert command.returncode == 2, output
        check_nothing_left(command)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_process_group_reaches_mlflow_as_killed(
    folder: Folder, number: signal.Signals, code: int
) -> None:
    with training(folder, *ENDLESS) as command:
        wait_for_first_epoch(command)
        os.killpg(command.pid, number)
        output = command.communicate(timeout=60)[0]
        assert command.returncode == code, output
        check_nothing_left(command)
    run, found = folder.run_directory(), folder.mlflow_run()
    assert found.info.status == "KILLED"
    assert run.is_delivered


def test_a_process_that_is_killed_at_its_start_costs_nothing_and_its_successor_ends(
    folder: Folder,
) -> None:
    with training(folder, "--set", f"stop.max_epochs={EPOCHS}") as command:
        os.kill(wait_for_process(command), signal.SIGKILL)
        output = command.communicate(timeout=60)[0]
        assert command.returncode == 0, output
        check_nothing_left(command)
    check_delivered(folder)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_or_frozen_process_costs_the_run_nothing(
    folder: Folder, number: signal.Signals
) -> None:
    with paused_training(folder, "--set", f"stop.max_epochs={EPOCHS}") as command:
        os.kill(wait_for_forked_process(folder, command), number)
        folder.release(1)
        output = command.communicate(timeout=60)
        assert command.returncode == 0, output
    assert forked_processes(folder, command) == []
    check_delivered(folder)


def check_delivered(folder: Folder) -> None:
    """Check that MLflow has the run with whole curves."""
    run, found = folder.run_directory(), folder.mlflow_run()
    assert (found.info.status, run.is_delivered) == ("FINISHED", True)
    client = MlflowClient(folder.tracking_uri)
    for curve in ("train_loss", "learning_rate"):
        history = client.get_metric_history(found.info.run_id, curve)
        assert [metric.step for metric in history] == list(range(1, EPOCHS + 1))


def test_sigterm_ends_a_run_whose_process_is_frozen(folder: Folder) -> None:
    with paused_training(folder, *ENDLESS) as command:
        os.kill(wait_for_forked_process(folder, command), signal.SIGSTOP)
        command.terminate()
        folder.release(1)
        output = command.communicate(timeout=60)
        assert command.returncode == 143, output
    assert forked_processes(folder, command) == []
    # A replacement of the process may have come too late for MLflow.
    folder.sumgrad("sync")
    assert folder.mlflow_run().info.status == "KILLED"


def test_a_killed_driver_takes_a_frozen_process_with_it(folder: Folder) -> None:
    with training(folder, *ENDLESS) as command:
        wait_for_first_epoch(command)
        child = wait_for_process(command)
        command.send_signal(signal.SIGSTOP)
        os.kill(child, signal.SIGSTOP)
        command.kill()
        command.wait(30)
        wait_until_gone(child)
    listed = folder.sumgrad("runs", "--json")
    assert [row["status"] for row in listed.results] == ["KILLED"]
    assert folder.mlflow_run().info.status == "KILLED", "the database is not locked"


def test_a_locked_database_fails_no_run(folder: Folder) -> None:
    with closing(sqlite3.connect(folder.path / "mlflow.db", isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        done = folder.sumgrad("train", "flowers.yaml", "--json")
    assert done.code == 0, done.err
    assert "sumgrad sync" in done.err
    assert folder.sumgrad("sync").code == 0
    run, found = folder.run_directory(), folder.mlflow_run()
    assert run.record.run_id == found.info.run_name == done.result["run_id"]
    assert found.info.status == "FINISHED"


def refused_options(folder: Folder) -> tuple[str, ...]:
    """Options of a run that MLflow refuses, because its experiment is deleted."""
    client = MlflowClient(folder.tracking_uri)
    client.delete_experiment(client.create_experiment("deleted"))
    return ("--set", "tracking.experiment=deleted")


def test_a_run_that_mlflow_refuses_stops_early(folder: Folder) -> None:
    done = folder.sumgrad("train", "flowers.yaml", *refused_options(folder), *ENDLESS)
    assert done.code == 3
    assert "the MLflow experiment 'deleted' is deleted" in done.err
    (run,) = all_runs(folder.path / "runs")
    assert run.checkpoints().paths(), "what was computed is kept"
    assert run.record.end is not None
    assert (run.record.end.status, run.record.end.can_resume) == ("FAILED", True)


def test_a_run_that_mlflow_refuses_after_its_end_keeps_its_weights(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine the refusal may come during training, which has to ignore it.
    monkeypatch.setattr(RunTracker, "raise_if_refused", lambda _: None)
    done = folder.sumgrad("train", "flowers.yaml", "--json", *refused_options(folder))
    assert done.code == 3
    assert "is deleted" in done.err
    (run,) = all_runs(folder.path / "runs")
    assert run.record.run_id == done.result["run_id"]
    assert load_model(run.model).parameters.sha256() == done.result["weights_sha256"]


def test_a_finished_run_that_was_not_delivered_is_delivered_by_resume(folder: Folder) -> None:
    away = ("--set", "tracking.uri=http://127.0.0.1:9")
    finished = folder.sumgrad("train", "flowers.yaml", "--json", *away)
    assert finished.code == 0, finished.err
    assert "training continues" in finished.err
    run_id = finished.result["run_id"]
    here = ("--set", f"tracking.uri={folder.tracking_uri}")
    resumed = folder.sumgrad("resume", run_id, "--json", *here)
    assert resumed.code == 0, resumed.err
    for key in ("run_id", "status", "epochs", "train_loss", "weights_sha256"):
        assert resumed.result[key] == finished.result[key]
    assert folder.mlflow_run().info.status == "FINISHED"
    again = folder.sumgrad("resume", run_id)
    assert again.code == 2
    assert "has finished (max_epochs); there is nothing to resume" in again.err
