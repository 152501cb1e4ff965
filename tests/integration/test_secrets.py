"""A password in a tracking address: what is run gets it, and nothing that is left has it."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sumgrad.jobs.runs.directory import all_runs
from tests.integration.command_line import Finished, Folder
from tests.integration.gate import Gate, mlflow_server
from tests.integration.test_resume import LONG, wait_for_checkpoints

SECRET = "s3cr3t-pass"


@pytest.fixture(scope="module")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(server_folder: Path) -> Iterator[int]:
    with mlflow_server(server_folder) as port:
        yield port


@pytest.fixture
def gate(server: int) -> Iterator[Gate]:
    made = Gate(server)
    yield made
    made.turn("down")


def expect_no_secret(*places: Path) -> None:
    """No file below a folder has the password in its name or its content."""
    files = [file for place in places for file in place.rglob("*")]
    assert files
    found = [str(file) for file in files if SECRET in file.name or _has_secret(file)]
    assert not found


def _has_secret(file: Path) -> bool:
    return file.is_file() and SECRET.encode() in file.read_bytes()


def quiet(done: Finished) -> Finished:
    """A command that has not said the password."""
    assert SECRET not in done.out + done.err
    return done


@pytest.fixture
def secret_uri(gate: Gate) -> str:
    return f"http://someone:{SECRET}@127.0.0.1:{gate.port}"


@pytest.mark.parametrize("given", ["in the spec", "in the environment"])
def test_a_run_that_is_tracked_leaves_no_secret(
    folder: Folder, gate: Gate, server_folder: Path, secret_uri: str, given: str
) -> None:
    gate.turn("open")
    place = ["--set", f"tracking.uri={secret_uri}"]
    if given == "in the environment":
        folder, place = replace(folder, environment={"MLFLOW_TRACKING_URI": secret_uri}), []
    done = quiet(folder.sumgrad("train", "flowers.yaml", "--json", "--debug", *place))
    assert done.code == 0, done.err
    assert done.result["tracking_uri"] == f"http://***@127.0.0.1:{gate.port}"
    run = MlflowClient(f"http://127.0.0.1:{gate.behind}").get_run(done.result["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["tracking.uri"] == done.result["tracking_uri"]
    shown = quiet(folder.sumgrad("config", "show", "flowers.yaml", *place))
    assert f"http://***@127.0.0.1:{gate.port}" in shown.out
    quiet(folder.sumgrad("runs"))
    knowing = replace(folder, environment={"MLFLOW_TRACKING_URI": secret_uri})
    assert quiet(knowing.sumgrad("ui")).code == 0
    expect_no_secret(folder.path, server_folder)


def test_a_run_that_nobody_could_be_told_of_leaves_none_and_is_told_later(
    folder: Folder, gate: Gate, server_folder: Path, secret_uri: str
) -> None:
    done = quiet(
        folder.sumgrad("train", "flowers.yaml", "--json", "--set", f"tracking.uri={secret_uri}")
    )
    assert done.code == 0, done.err
    assert "training goes on" in done.err
    expect_no_secret(folder.path)
    gate.turn("open")
    refused = folder.sumgrad("sync")
    assert refused.code == 3
    assert "credentials are not kept" in refused.out
    knowing = replace(folder, environment={"MLFLOW_TRACKING_URI": secret_uri})
    delivered = quiet(knowing.sumgrad("sync"))
    assert delivered.code == 0, delivered.out
    (run,) = all_runs(folder.path / "runs")
    assert run.is_delivered
    expect_no_secret(folder.path, server_folder)


@pytest.mark.parametrize("variable", ["MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_PASSWORD"])
def test_a_run_goes_on_with_the_secret_of_the_environment(
    folder: Folder, gate: Gate, secret_uri: str, variable: str
) -> None:
    gate.turn("open")
    place = ("--set", f"tracking.uri={secret_uri}", "--set", "stop.max_epochs=1000000")
    process = folder.start("train", "flowers.yaml", *LONG, *place)
    wait_for_checkpoints(folder, process)
    assert terminated(process).code == 143
    (run,) = all_runs(folder.path / "runs")
    refused = quiet(folder.sumgrad("resume", run.record.run_id))
    assert refused.code == 3
    assert "MLFLOW_TRACKING_URI" in refused.err
    given = {"MLFLOW_TRACKING_URI": secret_uri}
    if variable != "MLFLOW_TRACKING_URI":
        given = {"MLFLOW_TRACKING_USERNAME": "someone", variable: SECRET}
    process = replace(folder, environment=given).start("resume", run.record.run_id)
    assert process.stdout is not None
    assert any("going on after step" in line for line in process.stdout)
    assert terminated(process).code == 143
    (run,) = all_runs(folder.path / "runs")
    assert run.is_delivered
    expect_no_secret(folder.path)


def terminated(process: "subprocess.Popen[str]") -> Finished:
    """The end of a command that was told to come to one."""
    process.terminate()
    out, err = process.communicate(timeout=60)
    return quiet(Finished(process.returncode, out, err))
