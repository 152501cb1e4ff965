"""A job's newest run in MLflow; problems are part of the result, and not raised."""

import time
from dataclasses import replace

import pytest
from mlflow import MlflowClient

from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.errors import TrackingError
from sumgrad.jobs.service.client import run_view
from sumgrad.jobs.service.client.run_view import RunView, find_run, find_runs, mark_deleted
from sumgrad.jobs.service.heartbeat import TAG, Heartbeat
from sumgrad.jobs.service.ids import FOLDER_TAG, JOB_TAG
from tests.jobs.service.fakes import ADDRESS, Answer, free_port, site

BEAT = Heartbeat(1000.0, True, "digits", 3, 20, 0.25)


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=uri)


def add(client: MlflowClient, began: int, experiment: str = "0", **tags: str) -> str:
    tags = {name.replace("_", "."): value for name, value in tags.items()}
    run = client.create_run(experiment, start_time=began, tags=tags, run_name=f"run-{began}")
    return str(run.info.run_id)


def ask(uri: str | None, *job_ids: str) -> dict[str, RunView]:
    cluster = Cluster(address=ADDRESS, tracking_uri=uri)
    return {job_id: find_run(cluster, job_id) for job_id in job_ids}


def test_the_newest_run_of_each_job(client: MlflowClient, uri: str) -> None:
    other = client.create_experiment("other")
    add(client, 100, sumgrad_job="digits-1")
    newest = add(client, 300, other, **{JOB_TAG: "digits-1", TAG: BEAT.to_json()})
    add(client, 200, sumgrad_job="digits-1")
    second = add(client, 50, sumgrad_job="mnist-1", sumgrad_code="cluster")
    client.set_terminated(second, "KILLED")
    add(client, 900, sumgrad_job="digits-10")
    add(client, 999)
    both = {
        "digits-1": RunView(uri, "run-300", "RUNNING", BEAT, mlflow_run_id=newest),
        "mnist-1": RunView(uri, "run-50", "KILLED", has_sent_code=False, mlflow_run_id=second),
    }
    assert ask(uri, "digits-1", "mnist-1") == both
    assert ask(uri, "digits-1") == {"digits-1": both["digits-1"]}
    assert ask(uri, "gone-1") == {"gone-1": RunView(uri)}


def test_an_invalid_heartbeat_is_ignored(client: MlflowClient, uri: str) -> None:
    run = add(client, 1, **{JOB_TAG: "digits-1", TAG: '{"at": "yesterday"}'})
    assert ask(uri, "digits-1") == {"digits-1": RunView(uri, "run-1", "RUNNING", mlflow_run_id=run)}


def test_an_invalid_job_id_is_ignored(client: MlflowClient, uri: str) -> None:
    sound = add(client, 1, sumgrad_job="digits-1")
    for forged in ("\x1b[2Jdigits-2", "digits-3\nmnist-1  FINISHED", "../digits", "x" * 64, " "):
        add(client, 2, sumgrad_job=forged)
    found = find_runs(Cluster(address=ADDRESS, tracking_uri=uri))
    assert found == {"digits-1": RunView(uri, "run-1", "RUNNING", mlflow_run_id=sound)}


def test_the_name_is_the_specs_and_not_the_runs(client: MlflowClient, uri: str) -> None:
    run = add(client, 1, sumgrad_job="digits-1")
    client.log_param(run, "name", "digits")
    client.update_run(run, name="my best one")
    found = ask(uri, "digits-1")["digits-1"]
    assert (found.name, found.run_id) == ("digits", run)
    client.log_param(add(client, 2, sumgrad_job="digits-1"), "name", "a\n\x1b[2Jb")
    assert ask(uri, "digits-1")["digits-1"].name == "a [2Jb"


@pytest.mark.parametrize(("given", "known"), [(3, 3), (0, None), (-1, None), (10**30, None)])
def test_an_impossible_attempt_number_is_unknown(given: int, known: int | None) -> None:
    assert RunView("uri", "ab", "KILLED", replace(BEAT, attempt=given)).attempt == known
    assert RunView("uri", "ab", "KILLED").attempt is None


def test_the_reason_of_a_failure_is_read(client: MlflowClient, uri: str) -> None:
    run = add(client, 1, sumgrad_job="digits-1")
    client.set_tag(run, "sumgrad.stop_reason", "diverged")
    client.set_terminated(run, "FAILED")
    found = ask(uri, "digits-1")["digits-1"]
    assert (found.status, found.stop_reason, found.can_resume) == ("FAILED", "diverged", False)


def test_an_unknown_store_is_a_problem() -> None:
    found = ask(None, "digits-1", "mnist-1")
    assert set(found) == {"digits-1", "mnist-1"}
    assert "is not known here" in found["digits-1"].problem
    assert "MLFLOW_TRACKING_URI" in found["digits-1"].problem


def test_an_unreachable_server_is_a_problem() -> None:
    address = f"127.0.0.1:{free_port()}"
    view = ask(f"http://me:s3cr3t@{address}", "digits-1")["digits-1"]
    assert "does not answer" in view.problem
    assert view.uri == f"http://***@{address}"
    assert "s3cr3t" not in repr(view)
    assert view.run_id is None


def test_a_server_that_refuses_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with site({"/health": Answer()}) as server:
        view = ask(server.address, "digits-1")["digits-1"]
    assert "cannot be used" in view.problem


@pytest.mark.parametrize(
    "uri", ["./mlruns", "file:///mlruns", "http://[x", "http://h:0", "sqlite://", "http://a:b:c@/"]
)
def test_an_invalid_uri_is_a_problem(uri: str) -> None:
    view = ask(uri, "digits-1")["digits-1"]
    assert view.problem
    assert view.run_id is None


def test_an_id_with_quotes_finds_nothing(client: MlflowClient, uri: str) -> None:
    add(client, 1, sumgrad_job="digits-1")
    view = ask(uri, "x' OR '1' = '1")["x' OR '1' = '1"]
    assert view.run_id is None


def test_a_run_on_a_server_has_a_page() -> None:
    view = RunView("http://mlflow:5000", "digits-ab", mlflow_run_id="0ab")
    assert view.page == "http://mlflow:5000/#/runs/0ab"
    assert RunView("http://mlflow:5000").page is None
    assert replace(view, uri="sqlite:///x.db").page is None


@pytest.mark.parametrize("body", ['{"experiments": 3}', '{"experiments": [{"experiment_id": []}]}'])
def test_an_answer_of_another_server_is_a_problem(body: str) -> None:
    path = "/api/2.0/mlflow/experiments/search"
    with site({"/health": Answer(body="OK"), path: Answer(body=body)}) as server:
        found = ask(server.address, "digits-1")["digits-1"]
    assert found == RunView(
        uri=server.address, problem=f"the server at {server.address} is no MLflow server"
    )


def test_a_slow_server_is_a_problem(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setattr(run_view, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(run_view, "_search", lambda *_: time.sleep(0.5))
    found = ask(uri, "digits-1")["digits-1"]
    assert found.problem == f"{uri} has not answered in 0.05 s"


def test_a_deleted_job_is_marked(client: MlflowClient, uri: str) -> None:
    add(client, 1, **{JOB_TAG: "digits-1", FOLDER_TAG: "/runs/digits-1\x1b"})
    found = ask(uri, "digits-1")["digits-1"]
    assert (found.folder, found.is_deleted) == ("/runs/digits-1", False)
    cluster = Cluster(address=ADDRESS, tracking_uri=uri)
    mark_deleted(cluster, found)
    mark_deleted(cluster, RunView(uri))
    assert ask(uri, "digits-1")["digits-1"] == replace(found, is_deleted=True)
    with pytest.raises(TrackingError):
        mark_deleted(cluster, replace(found, mlflow_run_id="0" * 32))
