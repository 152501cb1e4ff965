"""A password in a tracking address reaches MLflow, and no file and no output."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sumgrad.jobs.runs.directory import all_runs
from tests.integration.command_line import Finished, Folder
from tests.integration.mlflow_proxy import MlflowProxy, mlflow_server

SECRET = "s3cr3t-pass"


@pytest.fixture(scope="module")
def server_folder(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Path:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(database, folder / "mlflow.db")
    return folder


@pytest.fixture(scope="module")
def server(server_folder: Path) -> Iterator[int]:
    with mlflow_server(server_folder) as port:
        yield port


@pytest.fixture
def proxy(server: int) -> Iterator[MlflowProxy]:
    made = MlflowProxy(server)
    yield made
    made.set_state("down")


def check_no_secret(*folders: Path) -> None:
    """Check that no file's name or content has the password."""
    files = [file for folder in folders for file in folder.rglob("*")]
    assert files
    found = [str(file) for file in files if SECRET in file.name or _has_secret(file)]
    assert not found


def _has_secret(file: Path) -> bool:
    return file.is_file() and SECRET.encode() in file.read_bytes()


def checked(done: Finished) -> Finished:
    """Check that a command has not shown the password."""
    assert SECRET not in done.out + done.err
    return done


@pytest.fixture
def secret_uri(proxy: MlflowProxy) -> str:
    return f"http://ada:{SECRET}@127.0.0.1:{proxy.port}"


@pytest.mark.parametrize("given", ["in the spec", "in the environment"])
def test_a_tracked_run_leaves_no_secret(
    folder: Folder, proxy: MlflowProxy, server_folder: Path, secret_uri: str, given: str
) -> None:
    proxy.set_state("open")
    uri = ["--set", f"tracking.uri={secret_uri}"]
    if given == "in the environment":
        folder, uri = replace(folder, environment={"MLFLOW_TRACKING_URI": secret_uri}), []
    done = checked(folder.sumgrad("train", "flowers.yaml", "--json", "--debug", *uri))
    assert done.code == 0, done.err
    assert done.result["tracking_uri"] == f"http://***@127.0.0.1:{proxy.port}"
    (row,) = folder.sumgrad("runs", "--json").results
    run = MlflowClient(f"http://127.0.0.1:{proxy.behind}").get_run(row["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["tracking.uri"] == done.result["tracking_uri"]
    shown = checked(folder.sumgrad("config", "show", "flowers.yaml", *uri))
    assert f"http://***@127.0.0.1:{proxy.port}" in shown.out
    checked(folder.sumgrad("runs"))
    with_secret = replace(folder, environment={"MLFLOW_TRACKING_URI": secret_uri})
    assert checked(with_secret.sumgrad("ui")).code == 0
    check_no_secret(folder.path, server_folder)


def test_a_run_that_was_not_delivered_leaves_no_secret_and_is_delivered_later(
    folder: Folder, proxy: MlflowProxy, server_folder: Path, secret_uri: str
) -> None:
    done = checked(
        folder.sumgrad("train", "flowers.yaml", "--json", "--set", f"tracking.uri={secret_uri}")
    )
    assert done.code == 0, done.err
    assert "training continues" in done.err
    check_no_secret(folder.path)
    proxy.set_state("open")
    refused = folder.sumgrad("sync")
    assert refused.code == 3
    assert "credentials are not stored" in refused.out
    with_secret = replace(folder, environment={"MLFLOW_TRACKING_URI": secret_uri})
    delivered = checked(with_secret.sumgrad("sync"))
    assert delivered.code == 0, delivered.out
    (run,) = all_runs(folder.path / "runs")
    assert run.is_delivered
    check_no_secret(folder.path, server_folder)


def test_a_run_is_resumed_with_the_secret_of_the_environment(
    folder: Folder, proxy: MlflowProxy, secret_uri: str
) -> None:
    proxy.set_state("open")
    interrupt(folder, 3, "train", "flowers.yaml", "--set", f"tracking.uri={secret_uri}")
    (run,) = all_runs(folder.path / "runs")
    run_id = run.record.run_id
    refused = checked(folder.sumgrad("resume", run_id))
    assert refused.code == 3
    assert "MLFLOW_TRACKING_URI" in refused.err
    with_uri = replace(folder, environment={"MLFLOW_TRACKING_URI": secret_uri})
    assert "resuming after step" in interrupt(with_uri, 6, "resume", run_id).out
    check_delivered(folder)
    login = {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": SECRET}
    done = checked(replace(folder, environment=login).sumgrad("resume", run_id))
    assert done.code == 0, done.err
    assert "resuming after step" in done.out
    check_delivered(folder)


def interrupt(folder: Folder, epoch: int, *arguments: str) -> Finished:
    """Start a run, send SIGTERM to it after an epoch, and wait for its end."""
    process = folder.start(*arguments, pauses=[epoch])
    folder.wait_for_pause(process, epoch)
    process.terminate()
    folder.release(epoch)
    out, err = process.communicate(timeout=60)
    done = checked(Finished(process.returncode, out, err))
    assert done.code == 143, err
    return done


def check_delivered(folder: Folder) -> None:
    """Check that MLflow has everything, and the folder no password."""
    (run,) = all_runs(folder.path / "runs")
    assert run.is_delivered
    check_no_secret(folder.path)
