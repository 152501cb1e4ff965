"""What the commands do with jobs: show, stop, forget, go on."""

import json
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.errors import JobNotFound, ServiceUnreachable, SubmissionError
from sumgrad.jobs.service.client import commands as actions
from sumgrad.jobs.service.client.commands import (
    Log,
    attempt_of,
    delete_job,
    follow_job,
    get_status,
    job_table,
    list_of_jobs,
    resume_job,
    stop_job,
)
from sumgrad.jobs.service.client.expectation import ANSWER_KEY, answer_digest
from sumgrad.jobs.service.client.ray_api import FAILED, PENDING, RUNNING, STOPPED, SUCCEEDED
from sumgrad.jobs.service.client.run_view import RunView
from sumgrad.jobs.service.client.sending import ENTRYPOINT
from sumgrad.jobs.service.client.status import lines_of
from sumgrad.jobs.service.host.heartbeat import TRAINING_STARTED, Heartbeat
from sumgrad.jobs.service.ids import ATTEMPT_KEY, JOB_KEY, NAME_KEY
from sumgrad.jobs.service.manifest import RESULT_PREFIX
from sumgrad.jobs.service.versions import Versions
from tests.fuzzing import cases
from tests.jobs.service.stand_ins import ADDRESS, Clock, FakeRayJobsClient, attempt

FACTS = {"run_id": "ab", "status": "FINISHED", "test_accuracy": None}
LINE = RESULT_PREFIX + json.dumps(FACTS)
LINES = st.sampled_from(
    [
        *("", "epoch 1/20", "result", "result:", "the " + LINE, "resul", " " + LINE, "\r"),
        *("result: none", "result: 3", "result: [1]", 'result: {"a": NaN}', "result: {"),
    ]
)


def taken(pieces: list[str]) -> tuple[str, object]:
    written: list[str] = []
    log = Log(written.append)
    for piece in pieces:
        log.take(piece)
    log.close()
    return "".join(written), log.result


@cases(500)
@given(
    before=st.lists(LINES, max_size=4),
    after=st.lists(LINES, max_size=3),
    has_result=st.booleans(),
    ends=st.booleans(),
    data=st.data(),
)
def test_the_result_is_kept_back_however_the_text_is_cut(
    before: list[str], after: list[str], has_result: bool, ends: bool, data: st.DataObject
) -> None:
    kept = "".join(line + "\n" for line in before)
    rest = "\n".join(after) + ("\n" if ends and after else "")
    text = kept + (LINE + "\n" if has_result else "") + rest
    points = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *points], [*points, len(text)], strict=True)]
    assert taken(pieces) == (kept + rest, FACTS if has_result else None)


def test_a_result_without_the_end_of_its_line_counts() -> None:
    assert taken(["epoch\n", LINE[:9], LINE[9:]]) == ("epoch\n", FACTS)


def test_of_several_results_the_last_one_counts() -> None:
    other = RESULT_PREFIX + json.dumps({"run_id": "cd"})
    assert taken([f"{other}\nx\n{LINE}\n"]) == ("x\n", FACTS)


def test_what_is_no_result_is_shown_at_once() -> None:
    written: list[str] = []
    log = Log(written.append)
    log.take("epoch 1")
    assert written == ["epoch 1"]
    log.take("\nres")
    assert "".join(written) == "epoch 1\n"
    log.take("t of it")
    assert "".join(written) == "epoch 1\nrest of it"


def test_following_gives_the_end_and_the_result() -> None:
    server = FakeRayJobsClient(attempt("digits-1", SUCCEEDED))
    server.memory.logs["digits-1"] = f"epoch 1\n{LINE}\nbye\n"
    written: list[str] = []
    ended, result = follow_job(server, "digits-1", written.append, pytest.fail)
    assert (ended.state, result) == (SUCCEEDED, FACTS)
    assert "".join(written) == "epoch 1\nbye\n"


@pytest.mark.parametrize("code", [1, 2, 143])
def test_the_result_of_an_earlier_job_of_that_id_is_not_taken_for_this_ones(code: int) -> None:
    server = FakeRayJobsClient(attempt("digits-1", FAILED, exit_code=code))
    server.memory.logs["digits-1"] = f"{LINE}\nerror: there are runs of an earlier job\n"
    assert follow_job(server, "digits-1", lambda _: None, pytest.fail)[1] is None


@pytest.fixture
def server() -> FakeRayJobsClient:
    return FakeRayJobsClient(
        attempt("digits-1", STOPPED, exit_code=143, start_time=1.0),
        attempt("digits-1~2", RUNNING, number=2, start_time=2.0),
        attempt("mnist-1", SUCCEEDED, start_time=3.0),
    )


def test_an_attempt_is_found_by_its_number(server: FakeRayJobsClient) -> None:
    assert attempt_of(server, "digits", None)[1].submission_id == "digits-1~2"
    assert attempt_of(server, "digits", 1)[1].submission_id == "digits-1"
    assert attempt_of(server, "digits", 2)[1].submission_id == "digits-1~2"
    for number in (0, 3, -1):
        with pytest.raises(JobNotFound, match=f"has no attempt {number}"):
            attempt_of(server, "digits", number)
    with pytest.raises(JobNotFound, match="has no job"):
        attempt_of(server, "nothing", None)


def test_only_a_job_that_runs_is_stopped(server: FakeRayJobsClient) -> None:
    job, was_running = stop_job(server, "digits")
    assert (job.job_id, was_running) == ("digits-1", True)
    assert server.memory.calls[-1] == "stop digits-1~2"
    assert stop_job(server, "mnist")[1] is False
    assert not any(call == "stop mnist-1" for call in server.memory.calls)


def test_only_a_job_that_is_over_is_forgotten(server: FakeRayJobsClient) -> None:
    with pytest.raises(SubmissionError, match="digits-1 is not over") as caught:
        delete_job(server, "digits")
    assert caught.value.hint == f"sumgrad stop digits-1 --cluster {ADDRESS}"
    server.memory.attempts["digits-1~2"] = attempt("digits-1~2", FAILED, number=2)
    assert delete_job(server, "digits").job_id == "digits-1"
    assert list(server.memory.attempts) == ["mnist-1"], "every attempt of it, and nothing else"


@pytest.mark.parametrize(
    ("state", "exit_code"), [(STOPPED, None), (FAILED, 3), (FAILED, 1), (FAILED, -9)]
)
def test_going_on_is_one_more_attempt(state: str, exit_code: int | None) -> None:
    server = FakeRayJobsClient(attempt("digits-1", state, exit_code=exit_code))
    sent = resume_job(server, "digits", ["cluster.workers=8"], pytest.fail)
    assert (sent.job_id, sent.submission_id, sent.is_new) == ("digits-1", "digits-1~2", True)
    (found,) = server.memory.sent
    assert (found.submission_id, found.entrypoint, found.modules) == ("digits-1~2", ENTRYPOINT, ())
    assert list(found.files) == ["job.json"]
    assert found.request["job_id"] == "digits-1"
    assert found.request["attempt"] == 2
    assert found.request["spec_yaml"] is None
    assert found.request["overrides"] == ["cluster.workers=8"]
    assert found.metadata[JOB_KEY] == "digits-1"
    assert found.metadata[NAME_KEY] == "digits"
    assert found.metadata[ATTEMPT_KEY] == "2"
    assert found.request["expected"] == Versions.here().as_json()
    assert found.metadata[ANSWER_KEY] == answer_digest(Versions.here())
    server.memory.attempts["digits-1~2"] = replace(
        attempt("digits-1~2", STOPPED, number=2), metadata=found.metadata
    )
    assert resume_job(server, "digits", [], pytest.fail).submission_id == "digits-1~3"


@pytest.mark.parametrize("state", [PENDING, RUNNING])
def test_a_job_that_goes_on_is_not_handed_in_again(state: str) -> None:
    server = FakeRayJobsClient(attempt("digits-1", state))
    with pytest.raises(SubmissionError, match="is not over") as caught:
        resume_job(server, "digits-1", [], pytest.fail)
    assert caught.value.hint == f"sumgrad logs -f digits-1 --cluster {ADDRESS}"
    assert not server.memory.sent


def test_a_job_that_came_to_its_end_is_not_run_again() -> None:
    server = FakeRayJobsClient(attempt("digits-1", SUCCEEDED))
    with pytest.raises(SubmissionError, match="came to its end"):
        resume_job(server, "digits-1", [], pytest.fail)
    assert not server.memory.sent


def test_the_code_goes_along_to_another_sumgrad() -> None:
    server = FakeRayJobsClient(attempt("digits-1", STOPPED))
    server.memory.versions = replace(Versions.here(), code="another")
    notes: list[str] = []
    resume_job(server, "digits-1", [], notes.append)
    (found,) = server.memory.sent
    assert found.modules[:3] == ("model", "cluster", "jobs")
    assert found.request["has_code"] is True
    assert len(notes) == 1


@pytest.mark.parametrize(
    "override",
    ["tracking.uri=http://me:s3cr3t@mlflow:5000", "tracking.uri=postgresql://db/x?password=s3cr3t"],
)
def test_a_password_does_not_travel(override: str) -> None:
    server = FakeRayJobsClient(attempt("digits-1", STOPPED))
    with pytest.raises(SubmissionError, match="password") as caught:
        resume_job(server, "digits-1", ["seed=1", override], pytest.fail)
    assert "s3cr3t" not in caught.value.message + caught.value.hint
    assert not server.memory.sent


def looking_up(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, RunView]
) -> Callable[[], list[list[str]]]:
    asked: list[list[str]] = []

    def look_up(
        cluster: Cluster, job_ids: list[str], *, others: bool = False
    ) -> dict[str, RunView]:
        asked.append(job_ids)
        named = {job_id: found.get(job_id, RunView("uri")) for job_id in job_ids}
        return {**found, **named} if others else named

    monkeypatch.setattr(actions, "look_up_runs", look_up)
    return lambda: asked


def test_a_status_asks_all_three(
    server: FakeRayJobsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat = Heartbeat(3.0, True, "", 3, 20, attempt=2)
    looking_up(monkeypatch, {"digits-1": RunView("uri", "run", "RUNNING", beat)})
    found, run = get_status(server, "digits")
    assert (found.state, found.run_id, run.run_id) == (RUNNING, "run", "run")
    assert found.reason == "epoch 3 of at most 20 is done"


@pytest.mark.parametrize("run", [RunView("uri"), RunView.unknown("MLflow is away")])
def test_what_mlflow_cannot_say_its_log_does(
    run: RunView, server: FakeRayJobsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking_up(monkeypatch, dict.fromkeys(("digits-1", "mnist-1"), run))
    server.memory.logs = {"digits-1": f"{TRAINING_STARTED}\n", "digits-1~2": "waiting for 2 CPUs\n"}
    for found in (get_status(server, "digits")[0], list_of_jobs(server)[1]):
        assert (found.state, found.reason) == (PENDING, "waiting for 2 CPUs")
    server.memory.logs["digits-1~2"] += f"{TRAINING_STARTED}\n"
    for found in (get_status(server, "digits")[0], list_of_jobs(server)[1]):
        assert found.state == RUNNING
    assert "log mnist-1" not in server.memory.calls, "it is over"


@pytest.mark.parametrize("error", [ServiceUnreachable("slow"), JobNotFound("gone")])
def test_what_nobody_can_say_is_not_claimed(
    error: Exception, server: FakeRayJobsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def log(*_: object, **__: object) -> str:
        raise error

    looking_up(monkeypatch, {})
    monkeypatch.setattr(server, "log", log)
    found, _ = get_status(server, "digits")
    assert (found.state, found.reason) == (RUNNING, "as far as Ray knows")


def test_the_logs_of_a_list_have_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    patience: list[float] = []

    def log(_: str, *, seconds: float) -> str:
        patience.append(seconds)
        clock.sleep(min(seconds, 4.0))
        return f"{TRAINING_STARTED}\n"

    server = FakeRayJobsClient(*(attempt(f"digits-{i}", RUNNING, start_time=i) for i in range(9)))
    looking_up(monkeypatch, {})
    monkeypatch.setattr(server, "log", log)
    monkeypatch.setattr("time.monotonic", clock.monotonic)
    reasons = [found.reason for found in list_of_jobs(server)]
    assert patience == [5.0, 5.0, 2.0]
    assert reasons[3:] == ["as far as Ray knows"] * 6
    assert "as far as Ray knows" not in reasons[:3]


def test_a_list_has_also_what_ray_has_forgotten(
    server: FakeRayJobsClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = {"lost-1": RunView("uri", "ab", "KILLED"), "done-1": RunView("uri", "cd", "FINISHED")}
    asked = looking_up(monkeypatch, lost)
    found = list_of_jobs(server)
    assert [each.job_id for each in found] == ["mnist-1", "digits-1", "lost-1"]
    assert (found[2].state, found[2].can_resume) == (STOPPED, True)
    assert len(asked()) == 1
    lines = job_table(found, "lab")
    assert lines[0].split() == ["job", "name", "state", "why", "attempt", "began", "(UTC)"]
    assert "FINISHED" in lines[1]
    assert "1970-01-01 00:00:02" in lines[2]


def test_an_empty_list_says_what_to_do() -> None:
    assert list_of_jobs(FakeRayJobsClient()) == []
    say = "lab has no jobs; hand one in with: sumgrad submit digits"
    assert job_table([], "lab") == [say]
    assert job_table([], "lab", " --cluster lab") == [f"{say} --cluster lab"]


def test_a_cluster_that_is_away_is_told(server: FakeRayJobsClient) -> None:
    server.memory.is_away = True
    for ask in (list_of_jobs, lambda it: get_status(it, "digits"), lambda it: stop_job(it, "x")):
        with pytest.raises(ServiceUnreachable):
            ask(server)


# A head that was started anew

NOW = time.time()
SILENT = Heartbeat(NOW - 3600, True, "", 3, 20, 0.5)


class Stopping(FakeRayJobsClient):
    """A cluster whose jobs end once they are told to, unless they are deaf."""

    is_deaf = False

    def stop(self, submission_id: str) -> None:
        super().stop(submission_id)
        found = self.memory.attempts[submission_id]
        if not self.is_deaf:
            self.memory.attempts[submission_id] = replace(found, state=STOPPED)


def running(number: int = 1, began: float = NOW - 7200) -> Stopping:
    name = "digits-1" if number == 1 else f"digits-1~{number}"
    return Stopping(attempt(name, RUNNING, number=number, start_time=began))


def test_a_job_that_is_silent_is_stopped_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    looking_up(monkeypatch, {"digits-1": RunView("uri", "run", "RUNNING", SILENT)})
    server = running()
    notes: list[str] = []
    assert resume_job(server, "digits", [], notes.append).submission_id == "digits-1~2"
    assert "stop digits-1" in server.memory.calls
    assert notes == ["job digits-1 gives no sign of life: it is stopped first"]


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
def test_a_job_that_was_just_handed_in_again_is_not_stopped(
    state: str, beat: Heartbeat | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking_up(monkeypatch, {"digits-1": RunView("uri", "run", "KILLED", beat)})
    monkeypatch.setattr(time, "time", lambda: NOW)
    server = running(2, began=NOW - 5)
    found = server.memory.attempts["digits-1~2"]
    server.memory.attempts["digits-1~2"] = replace(found, state=state)
    with pytest.raises(SubmissionError, match="is not over"):
        resume_job(server, "digits-1", [], pytest.fail)
    assert not server.memory.sent
    assert "stop digits-1~2" not in server.memory.calls


def test_a_silent_job_that_does_not_end_is_not_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "_STOP_S", 0.0)
    looking_up(monkeypatch, {"digits-1": RunView("uri", "run", "RUNNING", SILENT)})
    server = running()
    server.is_deaf = True
    with pytest.raises(SubmissionError, match="is not over"):
        resume_job(server, "digits-1", [], lambda _: None)
    assert not server.memory.sent


@pytest.mark.parametrize(
    ("status", "state", "can_resume"),
    [
        ("RUNNING", FAILED, True),
        ("KILLED", STOPPED, True),
        ("FAILED", FAILED, False),
        ("FINISHED", "FINISHED", False),
    ],
)
def test_a_job_that_ray_has_forgotten(
    status: str, state: str, can_resume: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking_up(monkeypatch, {"digits-1": RunView("uri", "run", status, SILENT)})
    server = FakeRayJobsClient()
    found, run = get_status(server, "digits-1")
    assert (found.state, found.can_resume, found.run_id) == (state, can_resume, "run")
    assert found.differences[0] == f"MLflow has it as {status}, and Ray does not know it"
    assert found.loss == 0.5
    facts = json.loads(json.dumps(found.as_json()))
    assert (facts["name"], facts["attempt"]) == (None, 1)
    assert facts["exit_code"] == (0 if status == "FINISHED" else None)
    assert job_table([found], "lab")[1].split()[:2] == ["digits-1", "-"]
    assert lines_of(found, run, "lab")[0].endswith("  attempt 1")
    if status == "FINISHED":
        with pytest.raises(SubmissionError, match="came to its end"):
            resume_job(server, "digits-1", [], pytest.fail)
        assert not server.memory.sent
    else:
        sent = resume_job(server, "digits-1", [], pytest.fail)
        assert sent.submission_id == "digits-1~2"
        assert server.memory.sent[0].metadata[JOB_KEY] == "digits-1"


def test_a_job_that_ray_has_forgotten_goes_on_under_its_name_and_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = RunView("uri", "run", "KILLED", replace(SILENT, attempt=3), name="digits")
    looking_up(monkeypatch, {"digits-1": run})
    server = FakeRayJobsClient()
    assert resume_job(server, "digits-1", [], pytest.fail).submission_id == "digits-1~4"
    assert server.memory.sent[0].metadata[NAME_KEY] == "digits"


@pytest.mark.parametrize("run", [RunView("uri"), RunView.unknown("MLflow is away")])
def test_a_job_that_nobody_knows(run: RunView, monkeypatch: pytest.MonkeyPatch) -> None:
    looking_up(monkeypatch, {"digits-1": run})
    for ask in (get_status, lambda it, name: resume_job(it, name, [], pytest.fail)):
        with pytest.raises(JobNotFound, match="has no job 'digits-1'"):
            ask(FakeRayJobsClient(), "digits-1")
