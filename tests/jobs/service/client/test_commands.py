"""What the commands do with jobs: show, list, stop, delete."""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest

from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.errors import JobNotFound, ServiceUnreachable, SubmissionError, TrackingError
from sumgrad.jobs.service.client import commands
from sumgrad.jobs.service.client.commands import (
    delete_job,
    deletion_lines,
    find_attempt,
    get_status,
    job_table,
    list_jobs,
    stop_job,
)
from sumgrad.jobs.service.client.run_view import RunView
from sumgrad.jobs.service.client.status import status_lines
from sumgrad.jobs.service.heartbeat import TRAINING_STARTED, Heartbeat
from sumgrad.jobs.service.states import FAILED, PENDING, RUNNING, STOPPED, SUCCEEDED
from tests.jobs.service.fakes import ADDRESS, Clock, FakeRayJobsClient, attempt

FOLDER = "/data/jobs/digits-1"
LAB = Cluster(address=ADDRESS, name="lab")


@pytest.fixture
def client() -> FakeRayJobsClient:
    return FakeRayJobsClient(
        attempt("digits-1", STOPPED, exit_code=143, start_time=1.0),
        attempt("digits-1~2", RUNNING, number=2, start_time=2.0),
        attempt("mnist-1", SUCCEEDED, start_time=3.0),
    )


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> dict[str, RunView]:
    """The runs of jobs in MLflow, by job id; empty at first."""
    runs: dict[str, RunView] = {}

    def mark_deleted(cluster: Cluster, run: RunView) -> None:
        runs.update({k: replace(v, is_deleted=True) for k, v in runs.items() if v == run})

    monkeypatch.setattr(commands, "find_run", lambda _, job_id: runs.get(job_id, RunView("uri")))
    monkeypatch.setattr(commands, "find_runs", lambda _: defaultdict(lambda: RunView("uri"), runs))
    monkeypatch.setattr(commands, "mark_deleted", mark_deleted)
    return runs


def test_an_attempt_is_found_by_its_number(client: FakeRayJobsClient) -> None:
    for number, name in ((None, "digits-1~2"), (1, "digits-1"), (2, "digits-1~2")):
        assert find_attempt(client, "digits", number)[1].submission_id == name
    for number in (0, 3, -1):
        with pytest.raises(JobNotFound, match=f"has no attempt {number}"):
            find_attempt(client, "digits", number)
    with pytest.raises(JobNotFound, match="has no job"):
        find_attempt(client, "nothing", None)


def test_only_a_running_job_is_stopped(client: FakeRayJobsClient) -> None:
    job, was_running = stop_job(client, "digits")
    assert (job.job_id, was_running) == ("digits-1", True)
    assert client.memory.calls[-1] == "stop digits-1~2"
    assert stop_job(client, "mnist")[1] is False
    assert "stop mnist-1" not in client.memory.calls


def test_a_status_combines_ray_mlflow_and_the_heartbeat(
    client: FakeRayJobsClient, mlflow: dict[str, RunView]
) -> None:
    beat = Heartbeat(3.0, True, "", 3, 20, attempt=2)
    mlflow["digits-1"] = RunView("uri", "run", "RUNNING", beat)
    found, run = get_status(client, "digits")
    assert (found.state, found.run_id, run.run_id) == (RUNNING, "run", "run")
    assert found.reason == "3 of at most 20 epochs done"


@pytest.mark.parametrize("run", [RunView("uri"), RunView(problem="MLflow is unreachable")])
def test_without_a_heartbeat_the_log_is_read(
    run: RunView, client: FakeRayJobsClient, mlflow: dict[str, RunView]
) -> None:
    mlflow |= {"digits-1": run, "mnist-1": run}
    client.memory.logs = {"digits-1": f"{TRAINING_STARTED}\n", "digits-1~2": "waiting for 2 CPUs\n"}
    for found in (get_status(client, "digits")[0], list_jobs(client)[1]):
        assert (found.state, found.reason) == (PENDING, "waiting for 2 CPUs")
    client.memory.logs["digits-1~2"] += f"{TRAINING_STARTED}\n"
    for found in (get_status(client, "digits")[0], list_jobs(client)[1]):
        assert found.state == RUNNING
    assert "get_log mnist-1" not in client.memory.calls, "it has ended"


@pytest.mark.usefixtures("mlflow")
@pytest.mark.parametrize("error", [ServiceUnreachable("slow"), JobNotFound("gone")])
def test_without_a_log_the_state_is_rays(
    error: Exception, client: FakeRayJobsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get_log(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(client, "get_log", get_log)
    found, _ = get_status(client, "digits")
    assert (found.state, found.reason) == (RUNNING, "according to Ray alone")


@pytest.mark.usefixtures("mlflow")
def test_the_logs_of_a_list_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    timeouts: list[float] = []

    def get_log(_: str, *, timeout: float) -> str:
        timeouts.append(timeout)
        clock.sleep(min(timeout, 4.0))
        return f"{TRAINING_STARTED}\n"

    client = FakeRayJobsClient(*(attempt(f"digits-{i}", RUNNING, start_time=i) for i in range(9)))
    monkeypatch.setattr(client, "get_log", get_log)
    reasons = [found.reason for found in list_jobs(client)]
    assert timeouts == [5.0, 5.0, 2.0]
    assert reasons[3:] == ["according to Ray alone"] * 6
    assert "according to Ray alone" not in reasons[:3]


def test_a_list_includes_lost_jobs_that_can_be_resumed(
    client: FakeRayJobsClient, mlflow: dict[str, RunView]
) -> None:
    mlflow["lost-1"] = RunView("uri", "ab", "KILLED")
    mlflow["done-1"] = RunView("uri", "cd", "FINISHED")
    mlflow["deleted-1"] = RunView("uri", "ef", "KILLED", is_deleted=True)
    found = list_jobs(client)
    assert [each.job_id for each in found] == ["mnist-1", "digits-1", "lost-1"]
    assert (found[2].state, found[2].can_resume) == (STOPPED, True)
    lines = job_table(found, LAB)
    assert lines[0].split()[:5] == ["job", "name", "state", "reason", "attempt"]
    assert "FINISHED" in lines[1]
    assert "1970-01-01 00:00:02" in lines[2]


def test_an_empty_list_suggests_a_command() -> None:
    assert list_jobs(FakeRayJobsClient()) == []
    assert job_table([], LAB) == [
        f"lab ({ADDRESS}) has no jobs; submit one: sumgrad submit digits --cluster lab"
    ]


@pytest.mark.parametrize(
    "call", [list_jobs, lambda it: get_status(it, "digits"), lambda it: stop_job(it, "x")]
)
def test_an_unreachable_cluster_is_an_error(
    call: Callable[[FakeRayJobsClient], object], client: FakeRayJobsClient
) -> None:
    client.memory.is_unreachable = True
    with pytest.raises(ServiceUnreachable):
        call(client)


# A restarted head


@pytest.mark.parametrize(
    ("status", "state", "can_resume"),
    [
        ("RUNNING", FAILED, True),
        ("KILLED", STOPPED, True),
        ("FAILED", FAILED, False),
        ("FINISHED", "FINISHED", False),
    ],
)
def test_the_status_of_a_job_that_ray_has_lost(
    status: str, state: str, can_resume: bool, mlflow: dict[str, RunView]
) -> None:
    mlflow["digits-1"] = RunView("uri", "run", status, Heartbeat(1.0, True, "", 3, 20, 0.5))
    found, run = get_status(FakeRayJobsClient(), "digits-1")
    assert (found.state, found.can_resume, found.run_id) == (state, can_resume, "run")
    assert found.differences[0] == f"MLflow has it as {status}, and Ray does not know it"
    assert found.loss == 0.5
    value = json.loads(json.dumps(asdict(found)))
    assert (value["name"], value["attempt"]) == (None, 1)
    assert value["exit_code"] == (0 if status == "FINISHED" else None)
    assert job_table([found], LAB)[1].split()[:2] == ["digits-1", "-"]
    assert status_lines(found, run, LAB)[0].endswith("  attempt 1")


@pytest.mark.parametrize("run", [RunView("uri"), RunView(problem="MLflow is unreachable")])
def test_an_unknown_job_has_no_status(run: RunView, mlflow: dict[str, RunView]) -> None:
    mlflow["digits-1"] = run
    for job_id in ("digits-1", "../x"):
        with pytest.raises(JobNotFound, match=f"has no job '{job_id}'"):
            get_status(FakeRayJobsClient(), job_id)


# Deleting


def test_only_a_job_that_has_ended_is_deleted(
    client: FakeRayJobsClient, mlflow: dict[str, RunView]
) -> None:
    with pytest.raises(SubmissionError, match="digits-1 has not ended") as caught:
        delete_job(client, "digits")
    assert caught.value.hint == f"sumgrad stop digits-1 --cluster {ADDRESS}"
    client.memory.attempts["digits-1~2"] = attempt("digits-1~2", FAILED, number=2)
    assert delete_job(client, "digits")[0].job_id == "digits-1"
    assert list(client.memory.attempts) == ["mnist-1"], "all attempts of it, and nothing else"


def test_a_deleted_job_is_unknown_and_the_hint_names_what_stays(
    mlflow: dict[str, RunView],
) -> None:
    cluster = Cluster(address=ADDRESS, tracking_uri="http://mlflow")
    client = FakeRayJobsClient(attempt("digits-1", STOPPED), cluster=cluster)
    mlflow["digits-1"] = RunView("uri", "run-1", "KILLED", folder=FOLDER)
    job, run = delete_job(client, "digits-1")
    assert deletion_lines(job.job_id, run) == [
        "job digits-1 is deleted from the cluster",
        f"What stays:  its run run-1 in MLflow and its folder {FOLDER} on the cluster's head",
        "The id 'digits-1' stays in use: give another job another --id",
    ]
    assert list_jobs(client) == []
    with pytest.raises(JobNotFound, match=f"digits-1 was deleted from {ADDRESS}") as caught:
        get_status(client, "digits-1")
    assert f"folder {FOLDER} on the cluster's head" in caught.value.hint
    assert f"sumgrad resume run-1 --output {FOLDER}/runs" in caught.value.hint


def test_without_a_run_the_folder_is_named_by_its_variable() -> None:
    assert "its folder $SUMGRAD_OUTPUT/digits-1" in deletion_lines("digits-1", RunView())[1]


def test_a_deletion_that_mlflow_cannot_record_is_a_warning(
    mlflow: dict[str, RunView], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise TrackingError("MLflow is unreachable")

    monkeypatch.setattr(commands, "mark_deleted", fail)
    cluster = Cluster(address=ADDRESS, tracking_uri="http://mlflow")
    client = FakeRayJobsClient(attempt("digits-1", STOPPED), cluster=cluster)
    delete_job(client, "digits-1")
    assert not client.memory.attempts
    assert "digits-1 was deleted (MLflow is unreachable): 'sumgrad resume' can still" in caplog.text
