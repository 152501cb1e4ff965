"""The five states that commands report, their exit codes, and the jobs of a cluster."""

from dataclasses import replace

import pytest

from sumgrad.jobs.service.ids import ATTEMPT_KEY, JOB_KEY
from sumgrad.jobs.service.states import (
    FAILED,
    FINISHED,
    PENDING,
    RAY_STATES,
    RUNNING,
    STOPPED,
    SUCCEEDED,
    group_by_job,
)
from tests.jobs.service.fakes import attempt


@pytest.mark.parametrize(
    ("ray_state", "ray_code", "code", "state", "resumable"),  # None: only the run knows
    [
        (PENDING, None, None, PENDING, None),
        (RUNNING, None, None, RUNNING, None),
        (SUCCEEDED, None, 0, FINISHED, False),
        (SUCCEEDED, 0, 0, FINISHED, False),
        (FAILED, None, 1, FAILED, True),
        (FAILED, 0, 1, FAILED, True),
        (FAILED, 1, 1, FAILED, None),
        (FAILED, 2, 2, FAILED, False),
        (FAILED, 3, 3, FAILED, True),
        (FAILED, 130, 130, STOPPED, True),
        (FAILED, 143, 143, STOPPED, True),
        (FAILED, -9, 137, FAILED, True),
        (FAILED, -15, 143, STOPPED, True),
        (FAILED, -2, 130, STOPPED, True),
        (STOPPED, None, 143, STOPPED, True),
        (STOPPED, 0, 143, STOPPED, True),
        (STOPPED, 143, 143, STOPPED, True),
        (STOPPED, 1, 1, STOPPED, None),
        (STOPPED, -9, 137, STOPPED, True),
    ],
)
def test_state_exit_code_and_whether_it_can_be_resumed(
    ray_state: str, ray_code: int | None, code: int | None, state: str, resumable: bool | None
) -> None:
    found = attempt("job", ray_state, exit_code=ray_code)
    assert found.state == state
    assert found.has_ended is (code is not None)
    if code is not None:
        assert found.exit_code == code
        assert found.can_resume is resumable


def test_the_states_are_those_of_the_documentation() -> None:
    states = {attempt(state=state).state for state in RAY_STATES}
    assert states == {"PENDING", "RUNNING", "FINISHED", "FAILED", "STOPPED"}


# Jobs


def test_attempts_are_ordered_by_number() -> None:
    found = [
        attempt("digits-1~10", number=10, start_time=40.0),
        attempt("digits-1", number=1, start_time=10.0),
        attempt("digits-1~2", RUNNING, number=2, start_time=50.0),
    ]
    (job,) = group_by_job(found)
    assert job.attempts == (found[1], found[2], found[0])
    assert job.latest is found[0]
    assert (job.job_id, job.name, job.latest.number + 1) == ("digits-1", "digits", 11)


def test_the_newest_job_comes_first_and_other_programs_are_left_out() -> None:
    foreign = replace(attempt("raysubmit_1"), metadata={"owner": "other"})
    unnamed = replace(attempt("bare"), metadata={JOB_KEY: "bare"}, start_time=None)
    attempts = [attempt("old", start_time=1.0), foreign, unnamed, attempt("new", start_time=2.0)]
    jobs = group_by_job(attempts)
    assert [job.job_id for job in jobs] == ["new", "old", "bare"]
    assert jobs[-1].name == "?"
    assert group_by_job([]) == group_by_job([foreign]) == []


@pytest.mark.parametrize("number", ["", "x", "0", "-1", "²", "1.5", "٣", "9" * 5000, " 2"])
def test_an_invalid_attempt_number_counts_as_1(number: str) -> None:
    strange = replace(attempt(), metadata={JOB_KEY: "digits-1", ATTEMPT_KEY: number})
    assert group_by_job([strange])[0].latest.number == 1


def test_a_refused_attempt_does_not_decide_the_state() -> None:
    stopped = attempt("digits-1", STOPPED, exit_code=143)
    refused = attempt("digits-1~2", FAILED, number=2, exit_code=2)
    (job,) = group_by_job([stopped, refused])
    assert (job.latest, job.effective, job.effective.number) == (refused, stopped, 1)
    again = attempt("digits-1~3", RUNNING, number=3)
    (job,) = group_by_job([stopped, refused, again])
    assert (job.effective, job.effective.number) == (again, 3)
    (job,) = group_by_job([attempt("digits-1", FAILED, exit_code=2)])
    assert job.effective is job.latest
