"""What a cluster has installed: asked once for each session, and never guessed."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sumgrad.jobs.errors import JobNotFound, ServiceUnreachable
from sumgrad.jobs.service.client import preflight
from sumgrad.jobs.service.client.preflight import _MARK, _PROBE, answer, ask, cluster_versions
from sumgrad.jobs.service.states import FAILED, RUNNING, STOPPED, SUCCEEDED, Attempt
from sumgrad.jobs.service.versions import Versions
from tests.jobs.service.stand_ins import FakeRayJobsClient, attempt

NOW = 10_000.0


def test_a_probe_leaves_nothing_on_the_cluster() -> None:
    server = FakeRayJobsClient()
    cluster_versions(server)
    assert server.memory.attempts == {}


class Failing(FakeRayJobsClient):
    """A cluster whose probes fail, or go on for ever."""

    def __init__(self, state: str, log: str, message: str = "") -> None:
        super().__init__()
        self._how = (state, log, message)

    def get_attempt(self, submission_id: str) -> Attempt:
        state, _, message = self._how
        return replace(attempt(submission_id, state), message=message)

    def get_log(self, submission_id: str, *, timeout: float = 30.0) -> str:
        return self._how[1]


@pytest.mark.parametrize(
    ("state", "log", "message", "told"),
    [
        (FAILED, "sh: 1: python: not found\n\n", "exit code 127", "sh: 1: python: not found"),
        (FAILED, "", "exit code 127", "exit code 127"),
        (FAILED, f'{_MARK}{{"sumgrad": "1"}}\nTraceback', "", "Traceback"),
        (SUCCEEDED, "nothing of ours\n", "", "nothing of ours"),
        (SUCCEEDED, "", "it was fine", "it was fine"),
        (FAILED, "x" * 9000, "", "xxx"),
    ],
)
def test_a_cluster_that_can_run_nothing(state: str, log: str, message: str, told: str) -> None:
    with pytest.raises(ServiceUnreachable, match="takes jobs, but cannot run one") as caught:
        cluster_versions(Failing(state, log, message))
    assert told in caught.value.message
    assert len(caught.value.message) < 400
    assert "SUMGRAD_PYTHON" in caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[1", "[" * 100_000, "{}", "3", '{"libraries": 3}'])
def test_an_answer_that_makes_no_sense(text: str) -> None:
    server = FakeRayJobsClient()
    server.memory.answer = _MARK + text
    with pytest.raises(ServiceUnreachable, match="cannot be understood"):
        cluster_versions(server)


class Hanging(FakeRayJobsClient):
    """A cluster whose probes run until they are stopped, and which forgets none before."""

    def submit(self, submission_id: str, *arguments: Any, **named: Any) -> None:
        super().submit(submission_id, *arguments, **named)
        self.memory.attempts[submission_id] = attempt(submission_id, RUNNING, start_time=NOW)

    def stop(self, submission_id: str) -> None:
        super().stop(submission_id)
        found = self.memory.attempts[submission_id]
        self.memory.attempts[submission_id] = replace(found, state=STOPPED)

    def delete(self, submission_id: str) -> None:
        if not self.memory.attempts[submission_id].has_ended:
            raise ServiceUnreachable("the job is not over")
        super().delete(submission_id)


def test_a_probe_is_not_forgotten_before_ray_has_seen_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = FakeRayJobsClient()
    slept: list[tuple[float, str]] = []
    monkeypatch.setattr(preflight, "_SETTLE_S", 2.0)
    monkeypatch.setattr(
        "time.sleep", lambda seconds: slept.append((seconds, server.memory.calls[-1]))
    )
    ask(server, "command")
    assert slept == [(2.0, "list_attempts")]
    assert server.memory.calls[-1].startswith("delete sumgrad-probe-")


def test_a_probe_that_does_not_end_is_ended_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "PROBE_S", -1.0)
    server = Hanging()
    with pytest.raises(ServiceUnreachable, match="has not run a short job in"):
        cluster_versions(server)
    assert server.memory.attempts == {}


def test_a_probe_that_nobody_waits_for_any_more_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **named: float) -> None:
        if named["timeout"] == preflight.PROBE_S:
            raise KeyboardInterrupt

    monkeypatch.setattr(preflight, "wait", interrupted)
    server = Hanging()
    with pytest.raises(KeyboardInterrupt):
        cluster_versions(server)
    assert server.memory.attempts == {}


def test_what_an_earlier_probe_has_left_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "PROBE_S", -1.0)
    old, young = NOW - preflight._LEFT_S - 1, NOW - preflight._LEFT_S + 1
    server = Hanging(
        attempt("sumgrad-probe-old", RUNNING, start_time=old),
        attempt("sumgrad-probe-over", FAILED, start_time=old),
        attempt("sumgrad-probe-again", FAILED, start_time=None),
        attempt("sumgrad-probe-new", RUNNING, start_time=None),
        attempt("sumgrad-probe-anothers", RUNNING, start_time=young),
        attempt("sumgrad-1", SUCCEEDED, start_time=old),
    )
    with pytest.raises(ServiceUnreachable):
        ask(server, "command")
    left = ["sumgrad-probe-new", "sumgrad-probe-anothers", "sumgrad-1"]
    assert list(server.memory.attempts) == left


@pytest.mark.parametrize("error", [ServiceUnreachable("away"), JobNotFound("gone")])
def test_an_answer_counts_although_its_probe_cannot_be_forgotten(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def delete(_: object, name: str) -> None:
        raise error

    monkeypatch.setattr(FakeRayJobsClient, "delete", delete)
    assert cluster_versions(FakeRayJobsClient()) == Versions.here()


def test_of_several_answers_the_last_counts() -> None:
    server = FakeRayJobsClient()
    server.memory.answer = f"{_MARK}1\n{_MARK}2\nafterwards"
    assert ask(server, "command") == 2


def test_an_answer_is_one_that_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    answer({"a": [1, "ü"]})
    server = FakeRayJobsClient()
    server.memory.answer = capsys.readouterr().out
    assert ask(server, "command") == {"a": [1, "ü"]}


def run(program: str, folder: Path) -> Versions:
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
    )
    return Versions.from_json(json.loads(done.stdout.removeprefix(_MARK)))


def test_the_probe_tells_what_is_there(tmp_path: Path) -> None:
    assert run(_PROBE, tmp_path) == Versions.here()


def test_the_probe_tells_what_is_not_there(tmp_path: Path) -> None:
    hidden = "import sys\nsys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
    hidden += "sys.meta_path[:] = [f for f in sys.meta_path if '__editable__' not in str(f)]\n"
    hidden += "sys.path[:] = [p for p in sys.path if p.endswith(('.zip', '3.11', 'lib-dynload'))]\n"
    found = run(hidden + _PROBE, tmp_path)
    assert (found.sumgrad, found.code) == ("none", "none")
    assert set(found.libraries.values()) == {"none"}
    assert found.python == Versions.here().python
