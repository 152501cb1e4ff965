"""A run of the real command, and the process that it has for MLflow."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from sumgrad.jobs.runs.directory import RunDirectory, all_runs
from tests.integration.chaos import SPEC
from tests.integration.command_line import SUMGRAD, Folder
from tests.integration.conftest import make_folder
from tests.jobs.tracking.test_run_tracker import wait_until_gone

ENDLESS = ("--set", "stop.max_epochs=1000000")
EPOCHS = 200


@pytest.fixture
def work(tmp_path: Path, database: Path) -> Folder:
    """A folder with data, a spec, and an initialised store."""
    return make_folder(tmp_path, database)


@contextmanager
def training(work: Folder, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
    """The command at work, in a process group of its own as a shell would start it."""
    with subprocess.Popen(
        [SUMGRAD, "train", "flowers.yaml", *arguments],
        cwd=work.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as command:
        try:
            yield command
        finally:
            command.kill()


def wait_for_first_epoch(command: "subprocess.Popen[str]") -> None:
    """Read what the command says until an epoch is done."""
    assert command.stdout is not None
    assert any(line.startswith("epoch ") for line in command.stdout)


def wait_for_child(command: "subprocess.Popen[str]") -> int:
    """The process for MLflow, as soon as it is there."""
    while command.poll() is None:
        for pid, parent, _ in processes():
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if parent == command.pid and b"sumgrad.jobs.tracking.mlflow_process" in words:
                    return pid
    raise AssertionError("the command has ended")


def processes() -> Iterator[tuple[int, int, int]]:
    """Of every process that is no zombie: its id, its parent's, its session's."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                yield int(status.parent.name), int(fields[1]), int(fields[3])


def expect_nothing_left(command: "subprocess.Popen[str]") -> None:
    """No process of the command's session is there any more."""
    assert [pid for pid, _, session in processes() if session == command.pid] == []


def told(work: Folder) -> tuple[RunDirectory, Run]:
    """The only run, on disk and in MLflow."""
    (run,) = all_runs(work.path / "runs")
    assert run.mlflow_run_id is not None
    return run, MlflowClient(work.tracking_uri).get_run(run.mlflow_run_id)


TRAIN = """
import sys
from sumgrad.jobs.cli.app import run
assert run(["train", "flowers.yaml"]) == 0
sys.stderr.write(repr({"mlflow", "sqlalchemy"} & sys.modules.keys()))
"""


def test_who_trains_imports_no_mlflow(work: Folder) -> None:
    done = work.python(TRAIN)
    assert (done.code, done.err) == (0, "set()")
    assert told(work)[1].info.status == "FINISHED"


def test_a_run_leaves_no_process(work: Folder) -> None:
    with training(work) as command:
        output = command.communicate(timeout=60)[0]
        assert command.returncode == 0, output
        expect_nothing_left(command)


def test_data_that_cannot_be_used_leave_none_either(work: Folder) -> None:
    with training(work, "--set", "data.label=colour") as command:
        output = command.communicate(timeout=60)[0]
        assert command.returncode == 2
        assert "has no column 'colour'" in output
        expect_nothing_left(command)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_whole_group_is_told_to_mlflow(
    work: Folder, number: signal.Signals, code: int
) -> None:
    with training(work, *ENDLESS) as command:
        wait_for_first_epoch(command)
        os.killpg(command.pid, number)
        output = command.communicate(timeout=60)[0]
        assert command.returncode == code, output
        expect_nothing_left(command)
    on_disk, in_mlflow = told(work)
    assert in_mlflow.info.status == "KILLED"
    assert on_disk.is_delivered


@pytest.mark.parametrize("when", ["it is there", "an epoch is done"])
def test_one_that_is_killed_costs_the_run_nothing(work: Folder, when: str) -> None:
    with training(work, *SPEC, "--set", f"stop.max_epochs={EPOCHS}") as command:
        if when == "an epoch is done":
            wait_for_first_epoch(command)
        os.kill(wait_for_child(command), signal.SIGKILL)
        output = command.communicate(timeout=60)[0]
        assert command.returncode == 0, output
        expect_nothing_left(command)
    on_disk, in_mlflow = told(work)
    assert (in_mlflow.info.status, on_disk.is_delivered) == ("FINISHED", True)
    client = MlflowClient(work.tracking_uri)
    assert len(client.search_runs([in_mlflow.info.experiment_id])) == 1
    for curve in ("train_loss", "learning_rate"):
        history = client.get_metric_history(in_mlflow.info.run_id, curve)
        assert [metric.step for metric in history] == list(range(1, EPOCHS + 1))


def test_it_is_gone_when_the_run_is_killed(work: Folder) -> None:
    with training(work, *ENDLESS) as command:
        wait_for_first_epoch(command)
        child = wait_for_child(command)
        command.kill()
        command.wait(30)
        wait_until_gone(child)
        expect_nothing_left(command)
