"""A job's log is handed on whole and in order, and an end is one that Ray confirms."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumgrad.jobs.errors import JobNotFound, ServiceUnreachable
from sumgrad.jobs.service.client.follow import PATIENCE_S, follow, wait
from sumgrad.jobs.service.client.ray_api import OVER, PENDING, RUNNING, SUCCEEDED, Attempt
from tests.fuzzing import cases
from tests.jobs.service.stand_ins import Clock, ScriptedRayJobsClient, attempt

AWAY = ServiceUnreachable("no cluster answers at http://head:8265: refused")


class Followed:
    """What came of following a job."""

    def __init__(self, server: ScriptedRayJobsClient, clock: Clock) -> None:
        self.written: list[str] = []
        self.notes: list[str] = []
        self.ended = follow(server, "job", self.written.append, self.notes.append, clock=clock)

    @property
    def text(self) -> str:
        return "".join(self.written)


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """A text, or its beginning, in pieces, with silence in between."""
    end = draw(st.integers(0, len(text)))
    points = draw(st.lists(st.integers(0, end), max_size=6))
    places = sorted({0, end, *points})
    pieces = [text[a:b] for a, b in pairwise(places)]
    silences = draw(st.lists(st.integers(0, len(pieces)), max_size=3))
    for place in silences:
        pieces.insert(place, "")
    return pieces


@st.composite
def scripts(draw: st.DrawFn) -> tuple[str, list[list[str]], float]:
    text = draw(st.text("ab\n", max_size=30))
    connections = draw(st.lists(cut(text), max_size=5))
    return text, connections, draw(st.sampled_from([0.0, 1.0, 30.0]))


@cases(400)
@given(script=scripts(), state=st.sampled_from(sorted(OVER)))
def test_every_character_comes_once_and_in_order(
    script: tuple[str, list[list[str]], float], state: str
) -> None:
    text, connections, silent_for = script
    clock = Clock()
    server = ScriptedRayJobsClient(clock, text, connections, silent_for)
    server.ended = attempt("job", state)
    followed = Followed(server, clock)
    assert followed.text == text
    assert followed.ended is server.asked[-1], "an end that Ray has confirmed"
    assert followed.ended.state == state
    assert not connections
    assert "" not in followed.written


def test_a_connection_that_ends_says_nothing_about_the_job() -> None:
    clock = Clock()
    server = ScriptedRayJobsClient(clock, "one\ntwo\n", [["one\n"], [], ["one\ntw"], []])
    followed = Followed(server, clock)
    assert followed.written == ["one\n", "tw", "o\n"]
    assert [asked.state for asked in server.asked] == [RUNNING] * 3 + [SUCCEEDED]
    assert clock.now == 1003.0, "a pause before each new connection"


def test_a_connection_that_is_dead_is_noticed() -> None:
    clock = Clock()
    server = ScriptedRayJobsClient(clock, "all of it", [["all"]], silent_for=60.0)
    assert Followed(server, clock).text == "all of it"
    assert 1060.0 <= clock.now < 1070.0


def test_a_job_that_prints_is_not_asked_about_in_between() -> None:
    clock = Clock()
    server = ScriptedRayJobsClient(clock, "x" * 50, [["x"] * 50])
    Followed(server, clock)
    assert len(server.asked) == 1


def test_a_server_that_is_away_for_a_while_is_waited_for() -> None:
    clock = Clock()
    server = ScriptedRayJobsClient(clock, "one\ntwo\n", [["one\n"], ["one\n", "two\n"]])
    server.away, server.away_until = AWAY, 1000.0 + PATIENCE_S - 5
    followed = Followed(server, clock)
    assert followed.text == "one\ntwo\n"
    assert followed.ended.state == SUCCEEDED
    assert followed.notes == [
        f"{AWAY.message}; trying again; a job goes on without us, if its cluster does",
        "connected again",
    ]


def test_a_server_that_is_away_for_too_long_is_given_up() -> None:
    clock = Clock()
    server = ScriptedRayJobsClient(clock, "one\n", [])
    server.away, server.away_until = AWAY, 1e9
    with pytest.raises(ServiceUnreachable, match="no cluster answers"):
        Followed(server, clock)
    assert 1000.0 + PATIENCE_S <= clock.now <= 1000.0 + PATIENCE_S + 5
    assert server.asked == []


def test_a_server_that_goes_away_before_the_rest_of_the_log_was_had() -> None:
    clock = Clock()

    class GoesAway(ScriptedRayJobsClient):
        def attempt(self, submission_id: str) -> Attempt:
            found = super().attempt(submission_id)
            self.away, self.away_until = AWAY, clock.now + 20.0
            return found

    followed = Followed(GoesAway(clock, "one\ntwo\n", []), clock)
    assert followed.text == "one\ntwo\n"
    assert followed.notes[-1] == "connected again"


def test_a_job_that_was_deleted_meanwhile_has_no_end() -> None:
    clock = Clock()
    server = ScriptedRayJobsClient(clock, "one\n", [["one\n"]])
    server.away, server.away_until = JobNotFound("the cluster knows no such job"), 1e9
    written: list[str] = []
    with pytest.raises(JobNotFound):
        follow(server, "job", written.append, pytest.fail, clock=clock)
    assert written == ["one\n"]
    with pytest.raises(JobNotFound):
        wait(server, "job", pytest.fail, clock=clock)


def test_a_log_that_has_become_shorter_gives_nothing_twice() -> None:
    clock = Clock()
    server = ScriptedRayJobsClient(clock, "on", [["one\n"]])
    assert Followed(server, clock).text == "one\n"


@pytest.mark.parametrize("state", sorted(OVER))
def test_waiting_ends_with_the_job(state: str) -> None:
    clock = Clock()
    server = ScriptedRayJobsClient(clock, "", [])
    server.ended = attempt("job", state)
    server._ends_at = 1007.5
    assert wait(server, "job", pytest.fail, clock=clock) == server.ended
    assert clock.now == 1008.0


@pytest.mark.parametrize("seconds", [0.0, 0.25, 3.0, 3.5])
def test_waiting_ends_in_time(seconds: float) -> None:
    clock = Clock()
    server = ScriptedRayJobsClient(clock, "", [])
    server._ends_at = 1e9
    assert wait(server, "job", pytest.fail, seconds=seconds, clock=clock) is None
    assert clock.now == 1000.0 + seconds


def test_waiting_no_time_at_all_sees_an_end_that_has_been() -> None:
    clock = Clock()
    server = ScriptedRayJobsClient(clock, "", [])
    assert wait(server, "job", pytest.fail, seconds=0.0, clock=clock) == server.ended


@pytest.mark.parametrize("seconds", [0.0, 1.0, 30.0])
def test_waiting_ends_in_time_also_where_the_server_is_away(seconds: float) -> None:
    clock = Clock()
    server = ScriptedRayJobsClient(clock, "", [])
    server.away, server.away_until = AWAY, 1e9
    notes: list[str] = []
    assert wait(server, "job", notes.append, seconds=seconds, clock=clock) is None
    assert clock.now == 1000.0 + seconds
    assert len(notes) == bool(seconds)


def test_waiting_without_a_limit_gives_up_on_a_server() -> None:
    clock = Clock()
    server = ScriptedRayJobsClient(clock, "", [])
    server.away, server.away_until = AWAY, 1e9
    with pytest.raises(ServiceUnreachable):
        wait(server, "job", lambda _: None, clock=clock)
    assert clock.now >= 1000.0 + PATIENCE_S
    with pytest.raises(ServiceUnreachable):
        wait(server, "job", lambda _: None, seconds=10 * PATIENCE_S, clock=clock)


def test_waiting_outlasts_a_server_that_comes_back() -> None:
    clock = Clock()
    server = ScriptedRayJobsClient(clock, "", [])
    server.away, server.away_until = AWAY, 1050.0
    notes: list[str] = []
    assert wait(server, "job", notes.append, seconds=100.0, clock=clock) == server.ended
    assert notes[-1] == "connected again"


@pytest.mark.parametrize("state", [*OVER, PENDING, RUNNING])
def test_what_is_over(state: str) -> None:
    assert attempt("job", state).has_ended is (state in OVER)


def test_the_real_clock_will_do() -> None:
    server: Any = ScriptedRayJobsClient(Clock(), "text", [["te"]])
    written: list[str] = []
    assert follow(server, "job", written.append, pytest.fail).state == SUCCEEDED
    assert "".join(written) == "text"
