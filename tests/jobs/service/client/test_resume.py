"""Resuming a job: one more attempt, of a job that has ended and can be resumed."""

import logging
import time
from dataclasses import replace

import pytest

from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.errors import JobNotFound, SubmissionError
from sumgrad.jobs.service.client import commands, resume
from sumgrad.jobs.service.client.resume import resume_job
from sumgrad.jobs.service.client.run_view import RunView
from sumgrad.jobs.service.heartbeat import Heartbeat
from sumgrad.jobs.service.ids import ATTEMPT_KEY, CODE_KEY, JOB_KEY, NAME_KEY
from sumgrad.jobs.service.manifest import ENTRYPOINT
from sumgrad.jobs.service.states import FAILED, PENDING, RUNNING, STOPPED, SUCCEEDED
from tests.jobs.service.fakes import ADDRESS, FakeRayJobsClient, attempt

NOW = time.time()
SILENT = Heartbeat(NOW - 3600, True, "", 3, 20, 0.5)


@pytest.fixture(autouse=True)
def mlflow(monkeypatch: pytest.MonkeyPatch) -> dict[str, RunView]:
    """The runs of jobs in MLflow, by job id; empty at first."""
    runs: dict[str, RunView] = {}

    def find_run(_: Cluster, job_id: str) -> RunView:
        return runs.get(job_id, RunView("uri"))

    monkeypatch.setattr(commands, "find_run", find_run)
    monkeypatch.setattr(resume, "find_run", find_run)
    return runs


@pytest.mark.parametrize(
    ("state", "exit_code"), [(STOPPED, None), (FAILED, 3), (FAILED, 1), (FAILED, -9)]
)
def test_a_resumed_job_is_one_more_attempt(state: str, exit_code: int | None) -> None:
    client = FakeRayJobsClient(attempt("digits-1", state, exit_code=exit_code))
    sent = resume_job(client, "digits", ["cluster.workers=8"])
    assert (sent.manifest.job_id, sent.id) == ("digits-1", "digits-1~2")
    (found,) = client.memory.sent
    assert (found.submission_id, found.entrypoint) == ("digits-1~2", ENTRYPOINT)
    assert found.modules[0] == "sumgrad"
    assert list(found.files) == ["job.json"]
    expected = {"job_id": "digits-1", "attempt": 2, "spec_yaml": None, "has_code": True}
    assert expected.items() <= found.manifest.items()
    assert found.manifest["overrides"] == ["cluster.workers=8"]
    assert found.manifest["allow_version_mismatch"], "the run's signature decides"
    metadata = {JOB_KEY: "digits-1", NAME_KEY: "digits", ATTEMPT_KEY: "2"}
    assert metadata.items() <= found.metadata.items()
    client.memory.attempts["digits-1~2"] = replace(
        attempt("digits-1~2", STOPPED, number=2), metadata=found.metadata
    )
    assert resume_job(client, "digits", []).id == "digits-1~3"


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_job_with_the_clusters_code_is_resumed_with_it(
    is_lost: bool, mlflow: dict[str, RunView]
) -> None:
    client = FakeRayJobsClient()
    if is_lost:
        mlflow["digits-1"] = RunView("uri", "run", "KILLED", SILENT, has_sent_code=False)
    else:
        first = attempt("digits-1", STOPPED)
        metadata = {**first.metadata, CODE_KEY: "cluster"}
        client.memory.attempts["digits-1"] = replace(first, metadata=metadata)
    sent = resume_job(client, "digits-1", [])
    assert not sent.manifest.has_code
    assert client.memory.sent[0].metadata[CODE_KEY] == "cluster"
    assert client.memory.sent[0].modules == ()


@pytest.mark.parametrize("state", [PENDING, RUNNING])
def test_a_job_that_has_not_ended_is_not_resumed(state: str) -> None:
    client = FakeRayJobsClient(attempt("digits-1", state))
    with pytest.raises(SubmissionError, match="has not ended") as caught:
        resume_job(client, "digits-1", [])
    assert caught.value.hint == f"sumgrad logs -f digits-1 --cluster {ADDRESS}"
    assert not client.memory.sent


@pytest.mark.parametrize("run", [RunView("uri", "ab", "FINISHED"), RunView(problem="unreachable")])
def test_a_finished_job_is_not_run_again(run: RunView, mlflow: dict[str, RunView]) -> None:
    mlflow["digits-1"] = run
    client = FakeRayJobsClient(attempt("digits-1", SUCCEEDED))
    with pytest.raises(SubmissionError, match="has finished") as caught:
        resume_job(client, "digits-1", [])
    assert run.problem in caught.value.message
    assert not client.memory.sent


def test_resuming_a_finished_job_updates_mlflow(mlflow: dict[str, RunView]) -> None:
    mlflow["digits-1"] = RunView("uri", "ab", "RUNNING")
    client = FakeRayJobsClient(attempt("digits-1", SUCCEEDED))
    assert resume_job(client, "digits-1", []).id == "digits-1~2"


@pytest.mark.parametrize(
    "override",
    ["tracking.uri=http://me:s3cr3t@mlflow:5000", "tracking.uri=postgresql://db/x?password=s3cr3t"],
)
def test_a_password_is_not_sent(override: str) -> None:
    client = FakeRayJobsClient(attempt("digits-1", STOPPED))
    with pytest.raises(SubmissionError, match="password") as caught:
        resume_job(client, "digits-1", ["seed=1", override])
    assert "s3cr3t" not in caught.value.message + caught.value.hint
    assert not client.memory.sent


# A restarted head


class Stopping(FakeRayJobsClient):
    """A cluster whose jobs end when they are stopped, unless they hang."""

    hangs = False

    def stop(self, submission_id: str) -> None:
        super().stop(submission_id)
        found = self.memory.attempts[submission_id]
        if not self.hangs:
            self.memory.attempts[submission_id] = replace(found, ray_state=STOPPED)


def running(number: int = 1, start_time: float = NOW - 7200) -> Stopping:
    name = "digits-1" if number == 1 else f"digits-1~{number}"
    return Stopping(attempt(name, RUNNING, number=number, start_time=start_time))


def test_a_job_without_heartbeats_is_stopped_and_resumed(
    mlflow: dict[str, RunView], caplog: pytest.LogCaptureFixture
) -> None:
    mlflow["digits-1"] = RunView("uri", "run", "RUNNING", SILENT)
    client = running()
    with caplog.at_level(logging.WARNING, "sumgrad"):
        assert resume_job(client, "digits", []).id == "digits-1~2"
    assert "stop digits-1" in client.memory.calls
    assert caplog.messages == ["job digits-1 sends no heartbeats: stopping it first"]


def test_a_silent_job_that_does_not_stop_is_not_run_twice(
    mlflow: dict[str, RunView], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "_STOP_TIMEOUT_S", 0.0)
    mlflow["digits-1"] = RunView("uri", "run", "RUNNING", SILENT)
    client = running()
    client.hangs = True
    with pytest.raises(SubmissionError, match="has not ended"):
        resume_job(client, "digits-1", [])
    assert not client.memory.sent


@pytest.mark.parametrize(
    "beat",
    [
        None,
        replace(SILENT, at=NOW),
        replace(SILENT, attempt=2, at=NOW),
        SILENT,
        replace(SILENT, attempt=2, at=NOW - 90_000),
    ],
)
@pytest.mark.parametrize("state", [PENDING, RUNNING])
def test_an_attempt_that_was_just_submitted_is_not_stopped(
    state: str,
    beat: Heartbeat | None,
    mlflow: dict[str, RunView],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mlflow["digits-1"] = RunView("uri", "run", "KILLED", beat)
    monkeypatch.setattr(time, "time", lambda: NOW)
    client = running(2, start_time=NOW - 5)
    found = client.memory.attempts["digits-1~2"]
    client.memory.attempts["digits-1~2"] = replace(found, ray_state=state)
    with pytest.raises(SubmissionError, match="has not ended"):
        resume_job(client, "digits-1", [])
    assert not client.memory.sent
    assert "stop digits-1~2" not in client.memory.calls


@pytest.mark.parametrize("status", ["RUNNING", "KILLED", "FAILED"])
def test_a_job_that_ray_has_lost_is_resumed_under_its_name_and_number(
    status: str, mlflow: dict[str, RunView]
) -> None:
    mlflow["digits-1"] = RunView("uri", "run", status, replace(SILENT, attempt=3), name="digits")
    client = FakeRayJobsClient()
    assert resume_job(client, "digits-1", []).id == "digits-1~4"
    assert client.memory.sent[0].metadata[NAME_KEY] == "digits"


def test_a_finished_job_that_ray_has_lost_is_not_run_again(mlflow: dict[str, RunView]) -> None:
    mlflow["digits-1"] = RunView("uri", "run", "FINISHED", SILENT)
    client = FakeRayJobsClient()
    with pytest.raises(SubmissionError, match="has finished"):
        resume_job(client, "digits-1", [])
    assert not client.memory.sent


def test_a_deleted_job_is_not_resumed_and_the_hint_names_its_folder(
    mlflow: dict[str, RunView],
) -> None:
    mlflow["digits-1"] = RunView(
        "uri", "run-1", "KILLED", folder="/data/jobs/digits-1", is_deleted=True
    )
    client = FakeRayJobsClient()
    with pytest.raises(JobNotFound, match=f"digits-1 was deleted from {ADDRESS}") as caught:
        resume_job(client, "digits-1", [])
    assert "sumgrad resume run-1 --output /data/jobs/digits-1/runs" in caught.value.hint
    assert not client.memory.sent


@pytest.mark.parametrize("run", [RunView("uri"), RunView(problem="MLflow is unreachable")])
def test_an_unknown_job_is_not_resumed(run: RunView, mlflow: dict[str, RunView]) -> None:
    mlflow["digits-1"] = run
    with pytest.raises(JobNotFound, match="has no job 'digits-1'"):
        resume_job(FakeRayJobsClient(), "digits-1", [])
