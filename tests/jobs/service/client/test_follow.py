"""Following a log whole and in order, and waiting for an end that Ray confirms."""

import json
import logging
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumgrad.jobs.errors import JobLost, JobNotFound, ServiceUnreachable
from sumgrad.jobs.service.client.follow import (
    RECONNECT_TIMEOUT_S,
    LogPrinter,
    follow,
    follow_job,
    wait,
)
from sumgrad.jobs.service.manifest import RESULT_PREFIX
from sumgrad.jobs.service.states import END_STATES, FAILED, RUNNING, SUCCEEDED, Attempt
from tests.fuzzing import cases
from tests.jobs.service.fakes import (
    Clock,
    FakeRayJobsClient,
    ScriptedRayJobsClient,
    attempt,
)

UNREACHABLE = ServiceUnreachable("no cluster answers at http://head:8265: refused")
RETRYING = f"{UNREACHABLE.message}; trying again, and the job continues if its cluster does"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sumgrad")


def followed(client: ScriptedRayJobsClient) -> tuple[Attempt, list[str]]:
    """Follow a job; return how it ended, and the pieces that were written."""
    written: list[str] = []
    return follow(client, "job", written.append), written


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """A text, or its start, in pieces, with silence in between."""
    end = draw(st.integers(0, len(text)))
    points = draw(st.lists(st.integers(0, end), max_size=6))
    pieces = [text[a:b] for a, b in pairwise(sorted({0, end, *points}))]
    for index in draw(st.lists(st.integers(0, len(pieces)), max_size=3)):
        pieces.insert(index, "")
    return pieces


@st.composite
def scripts(draw: st.DrawFn) -> tuple[str, list[list[str]], float]:
    text = draw(st.text("ab\n", max_size=30))
    connections = draw(st.lists(cut(text), max_size=5))
    return text, connections, draw(st.sampled_from([0.0, 1.0, 30.0]))


@cases(400)
@given(script=scripts(), state=st.sampled_from(sorted(END_STATES)))
def test_every_character_comes_once_and_in_order(
    script: tuple[str, list[list[str]], float], state: str
) -> None:
    text, connections, silent_for = script
    with pytest.MonkeyPatch.context() as patch:
        client = ScriptedRayJobsClient(Clock(patch), text, connections, silent_for)
        client.ended = attempt("job", state)
        ended, written = followed(client)
    assert "".join(written) == text
    assert ended is client.answers[-1]
    assert ended.ray_state == state
    assert not connections
    assert "" not in written


def test_the_end_of_a_connection_is_not_the_end_of_the_job(clock: Clock) -> None:
    client = ScriptedRayJobsClient(clock, "one\ntwo\n", [["one\n"], [], ["one\ntw"], []])
    assert followed(client)[1] == ["one\n", "tw", "o\n"]
    assert [answer.ray_state for answer in client.answers] == [RUNNING] * 3 + [SUCCEEDED]
    assert clock.now == 1003.0, "a pause before each new connection"


def test_a_dead_connection_is_noticed(clock: Clock) -> None:
    client = ScriptedRayJobsClient(clock, "all of it", [["all"]], silent_for=60.0)
    assert "".join(followed(client)[1]) == "all of it"
    assert 1060.0 <= clock.now < 1070.0


def test_the_state_is_not_requested_while_the_job_prints(clock: Clock) -> None:
    client = ScriptedRayJobsClient(clock, "x" * 50, [["x"] * 50])
    followed(client)
    assert len(client.answers) == 1


def test_a_short_outage_of_the_server_is_survived(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    client = ScriptedRayJobsClient(clock, "one\ntwo\n", [["one\n"], ["one\n", "two\n"]])
    client.error, client.error_until = UNREACHABLE, 1000.0 + RECONNECT_TIMEOUT_S - 5
    ended, written = followed(client)
    assert "".join(written) == "one\ntwo\n"
    assert ended.ray_state == SUCCEEDED
    assert caplog.messages == [RETRYING, "connected again"]


def test_an_outage_before_the_rest_of_the_log_is_survived(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(ScriptedRayJobsClient):
        def get_attempt(self, submission_id: str) -> Attempt:
            found = super().get_attempt(submission_id)
            self.error, self.error_until = UNREACHABLE, clock.now + 20.0
            return found

    assert "".join(followed(Failing(clock, "one\ntwo\n", []))[1]) == "one\ntwo\n"
    assert caplog.messages[-1] == "connected again"


def test_a_long_outage_is_an_error(clock: Clock) -> None:
    client = ScriptedRayJobsClient(clock, "one\n", [])
    client.error, client.error_until = UNREACHABLE, 1e9
    with pytest.raises(ServiceUnreachable, match="no cluster answers"):
        followed(client)
    assert 1000.0 + RECONNECT_TIMEOUT_S <= clock.now <= 1000.0 + RECONNECT_TIMEOUT_S + 5
    for timeout in (float("inf"), 10 * RECONNECT_TIMEOUT_S):
        with pytest.raises(ServiceUnreachable):
            wait(client, "job", timeout=timeout)


def test_a_deleted_job_is_an_error(clock: Clock) -> None:
    client = ScriptedRayJobsClient(clock, "one\n", [["one\n"]])
    client.error, client.error_until = JobNotFound("the cluster knows no such job"), 1e9
    written: list[str] = []
    with pytest.raises(JobLost):
        follow(client, "job", written.append)
    assert written == ["one\n"]
    with pytest.raises(JobLost):
        wait(client, "job")


def test_a_log_that_became_shorter_repeats_nothing(clock: Clock) -> None:
    client = ScriptedRayJobsClient(clock, "on", [["one\n"]])
    assert followed(client)[1] == ["one\n"]


# Waiting


@pytest.mark.parametrize("state", sorted(END_STATES))
def test_waiting_ends_with_the_job(state: str, clock: Clock) -> None:
    client = ScriptedRayJobsClient(clock, "", [])
    client.ended = attempt("job", state)
    client.ends_at = 1007.5
    assert wait(client, "job") == client.ended
    assert clock.now == 1008.0


@pytest.mark.parametrize("timeout", [0.0, 0.25, 3.0, 3.5])
@pytest.mark.parametrize("is_reachable", [True, False])
def test_waiting_ends_at_its_timeout(is_reachable: bool, timeout: float, clock: Clock) -> None:
    client = ScriptedRayJobsClient(clock, "", [])
    client.ends_at = 1e9
    if not is_reachable:
        client.error, client.error_until = UNREACHABLE, 1e9
    assert wait(client, "job", timeout=timeout) is None
    assert clock.now == 1000.0 + timeout


def test_a_job_that_has_ended_needs_no_waiting(clock: Clock) -> None:
    client = ScriptedRayJobsClient(clock, "", [])
    assert wait(client, "job", timeout=0.0) == client.ended


def test_waiting_survives_an_outage(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    client = ScriptedRayJobsClient(clock, "", [])
    client.error, client.error_until = UNREACHABLE, 1050.0
    assert wait(client, "job", timeout=100.0) == client.ended
    assert caplog.messages == [RETRYING, "connected again"]


# The line with the result


RESULT = {"run_id": "ab", "status": "FINISHED", "test_accuracy": None}
LINE = RESULT_PREFIX + json.dumps(RESULT)
LINES = st.sampled_from(
    [
        *("", "epoch 1/20", "result", "result:", "the " + LINE, "resul", " " + LINE, "\r"),
        *("result: none", "result: 3", "result: [1]", "result: {"),
    ]
)


def printed(pieces: list[str]) -> tuple[str, object]:
    """Return what a printer writes of a log, and the result."""
    written: list[str] = []
    log = LogPrinter(written.append)
    for piece in pieces:
        log.feed(piece)
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
def test_the_result_is_removed_however_the_log_is_cut(
    before: list[str], after: list[str], has_result: bool, ends: bool, data: st.DataObject
) -> None:
    start = "".join(line + "\n" for line in before)
    rest = "\n".join(after) + ("\n" if ends and after else "")
    text = start + (LINE + "\n" if has_result else "") + rest
    points = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in pairwise([0, *points, len(text)])]
    assert printed(pieces) == (start + rest, RESULT if has_result else None)


def test_a_result_at_the_end_of_the_log_needs_no_newline() -> None:
    assert printed(["epoch\n", LINE[:9], LINE[9:]]) == ("epoch\n", RESULT)


def test_the_last_of_several_results_counts() -> None:
    other = RESULT_PREFIX + json.dumps({"run_id": "cd"})
    assert printed([f"{other}\nx\n{LINE}\n"]) == ("x\n", RESULT)


def test_a_result_with_nan_has_null() -> None:
    assert printed([RESULT_PREFIX + '{"loss": NaN}\n']) == ("", {"loss": None})


def test_following_a_job_returns_its_end_and_its_result() -> None:
    client = FakeRayJobsClient(attempt("digits-1", SUCCEEDED))
    client.memory.logs["digits-1"] = f"epoch 1\n{LINE}\nbye\n"
    written: list[str] = []
    ended, result = follow_job(client, "digits-1", written.append)
    assert (ended.ray_state, result) == (SUCCEEDED, RESULT)
    assert "".join(written) == "epoch 1\nbye\n"


@pytest.mark.parametrize("code", [1, 2, 143])
def test_the_result_of_a_deleted_job_with_the_same_id_is_ignored(code: int) -> None:
    client = FakeRayJobsClient(attempt("digits-1", FAILED, exit_code=code))
    client.memory.logs["digits-1"] = f"{LINE}\nerror: there are runs of an earlier job\n"
    assert follow_job(client, "digits-1", lambda _: None)[1] is None
