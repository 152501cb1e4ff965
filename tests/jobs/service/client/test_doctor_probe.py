"""The short job of ``sumgrad doctor``: its report, and that it leaves nothing on the cluster."""

import shlex
from dataclasses import replace
from typing import Any

import pytest

from sumgrad.jobs.errors import JobNotFound, ServiceUnreachable
from sumgrad.jobs.service.checks import REPORT_PREFIX, Check, Report
from sumgrad.jobs.service.client import doctor
from sumgrad.jobs.service.client.doctor import run_probe
from sumgrad.jobs.service.states import FAILED, RUNNING, STOPPED, SUCCEEDED, Attempt
from tests.jobs.service.fakes import FakeRayJobsClient, attempt

REPORT = Report(
    checks=(Check("nodes", "ok", "2 answer"), Check("output", "warn", "x", "y")), clocks=(1.5,)
)


def log(*reports: Report) -> str:
    lines = [REPORT_PREFIX + report.model_dump_json() for report in reports]
    return "\n".join(["a warning of Ray's", *lines, "another line", ""])


@pytest.fixture(autouse=True)
def without_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copying all of sumgrad takes a while."""
    monkeypatch.setattr(doctor, "copy_source", lambda folder: [folder / "sumgrad"])


class RecordingClient(FakeRayJobsClient):
    """Records the commands of probes and the modules that are sent along."""

    def __init__(self) -> None:
        super().__init__()
        self.submitted: list[tuple[str, list[str]]] = []

    def submit_job(self, **job: Any) -> None:
        self.submitted.append((job["entrypoint"], list(job["runtime_env"]["py_modules"])))
        super().submit_job(**job)


def test_the_last_report_is_returned_and_nothing_is_left() -> None:
    client = RecordingClient()
    client.memory.probe_log = log(Report(checks=()), REPORT)
    assert run_probe(client) == REPORT
    assert client.memory.attempts == {}


def test_the_job_brings_the_code_and_paths_are_not_commands() -> None:
    client = RecordingClient()
    client.memory.probe_log = log(REPORT)
    run_probe(client, ["/x'; touch /evil; '"])
    ((command, modules),) = client.submitted
    assert command.startswith("${SUMGRAD_PYTHON:-python} -P -m sumgrad.jobs.service.host.probe ")
    assert shlex.split(command)[-1] == "/x'; touch /evil; '"
    assert [module.rpartition("/")[2] for module in modules] == ["sumgrad"]


class FailingClient(FakeRayJobsClient):
    """A cluster whose probes end in a given way."""

    def __init__(self, state: str, log: str, message: str = "") -> None:
        super().__init__()
        self._end = (state, log, message)

    def get_attempt(self, submission_id: str) -> Attempt:
        state, _, message = self._end
        return replace(attempt(submission_id, state), message=message)

    def get_log(self, submission_id: str, *, timeout: float = 30.0) -> str:
        return self._end[1]


@pytest.mark.parametrize(
    ("state", "log", "message", "text"),
    [
        (FAILED, "sh: 1: python: not found\n\n", "exit code 127", "sh: 1: python: not found"),
        (FAILED, "", "exit code 127", "exit code 127"),
        (FAILED, log(REPORT) + "Traceback", "", "Traceback"),
        (SUCCEEDED, "another program\n", "", "another program"),
        (SUCCEEDED, "", "it was fine", "it was fine"),
        (FAILED, "x" * 9000, "", "xxx"),
    ],
)
def test_a_job_that_fails_is_reported_with_its_last_line(
    state: str, log: str, message: str, text: str
) -> None:
    with pytest.raises(ServiceUnreachable, match="accepts jobs but cannot run one") as caught:
        run_probe(FailingClient(state, log, message))
    assert text in caught.value.message
    assert len(caught.value.message) < 400
    assert "SUMGRAD_PYTHON" in caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[1", "[" * 100_000, "{}", "3", '{"checks": 3}'])
def test_a_damaged_report_is_refused(text: str) -> None:
    client = FakeRayJobsClient()
    client.memory.probe_log = REPORT_PREFIX + text
    with pytest.raises(ServiceUnreachable, match="reports what cannot be read") as caught:
        run_probe(client)
    assert len(caught.value.message) < 400


class HangingClient(FakeRayJobsClient):
    """A cluster whose probes run until they are stopped, and cannot be deleted before."""

    def submit_job(self, **job: Any) -> None:
        super().submit_job(**job)
        name = job["submission_id"]
        self.memory.attempts[name] = attempt(name, RUNNING)

    def stop(self, submission_id: str) -> None:
        super().stop(submission_id)
        running = self.memory.attempts[submission_id]
        self.memory.attempts[submission_id] = replace(running, ray_state=STOPPED)

    def delete(self, submission_id: str) -> None:
        assert self.memory.attempts[submission_id].has_ended
        super().delete(submission_id)


def test_a_job_that_does_not_end_in_time_is_stopped_and_deleted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "PROBE_TIMEOUT_S", -1.0)
    client = HangingClient()
    with pytest.raises(ServiceUnreachable, match="has not run a short job in"):
        run_probe(client)
    assert client.memory.attempts == {}


def test_ctrl_c_stops_and_deletes_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **named: float) -> None:
        if named["timeout"] == doctor.PROBE_TIMEOUT_S:
            raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "wait", interrupt)
    client = HangingClient()
    with pytest.raises(KeyboardInterrupt):
        run_probe(client)
    assert client.memory.attempts == {}


def test_the_job_is_deleted_after_ray_has_seen_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeRayJobsClient()
    client.memory.probe_log = log(REPORT)
    sleeps: list[tuple[float, str]] = []
    monkeypatch.setattr(doctor, "_SETTLE_S", 2.0)
    monkeypatch.setattr(
        "time.sleep", lambda seconds: sleeps.append((seconds, client.memory.calls[-1]))
    )
    run_probe(client)
    ((seconds, call),) = sleeps
    assert (seconds, call.partition(" ")[0]) == (2.0, "get_attempt")
    assert client.memory.calls[-1].startswith("delete sumgrad-probe-")


@pytest.mark.parametrize("error", [ServiceUnreachable("away"), JobNotFound("gone")])
def test_a_report_is_returned_although_the_job_cannot_be_deleted(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def delete(_: object, name: str) -> None:
        raise error

    monkeypatch.setattr(FakeRayJobsClient, "delete", delete)
    client = FakeRayJobsClient()
    client.memory.probe_log = log(REPORT)
    assert run_probe(client) == REPORT
