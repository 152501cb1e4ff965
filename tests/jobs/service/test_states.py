"""The five words for how a job is, and the code it ends with."""

import pytest

from sumgrad.jobs.service.client.ray_api import FAILED, OVER, PENDING, RUNNING, STOPPED, SUCCEEDED
from sumgrad.jobs.service.states import FINISHED, STATES, can_resume, exit_code, state_of
from tests.jobs.service.stand_ins import attempt


@pytest.mark.parametrize(
    ("state", "given", "code"),
    [
        (SUCCEEDED, None, 0),
        (SUCCEEDED, 0, 0),
        (FAILED, None, 1),
        (FAILED, 0, 1),
        (FAILED, 1, 1),
        (FAILED, 2, 2),
        (FAILED, 3, 3),
        (FAILED, 130, 130),
        (FAILED, -9, 137),
        (FAILED, -15, 143),
        (FAILED, -2, 130),
        (STOPPED, None, 143),
        (STOPPED, 0, 143),
        (STOPPED, 143, 143),
        (STOPPED, 1, 1),
        (STOPPED, -9, 137),
    ],
)
def test_the_exit_code_is_the_jobs_own(state: str, given: int | None, code: int) -> None:
    assert exit_code(attempt("job", state, exit_code=given)) == code


@pytest.mark.parametrize(
    ("state", "given", "said", "goes_on"),  # None: only the run says it
    [
        (PENDING, None, PENDING, False),
        (RUNNING, None, RUNNING, False),
        (SUCCEEDED, 0, FINISHED, False),
        (FAILED, 1, FAILED, None),
        (FAILED, 2, FAILED, False),
        (FAILED, 3, FAILED, True),
        (FAILED, -9, FAILED, True),
        (FAILED, None, FAILED, True),
        (FAILED, 130, STOPPED, True),
        (FAILED, 143, STOPPED, True),
        (FAILED, -2, STOPPED, True),
        (FAILED, -15, STOPPED, True),
        (STOPPED, None, STOPPED, True),
        (STOPPED, 1, STOPPED, None),
    ],
)
def test_there_are_five_words(
    state: str, given: int | None, said: str, goes_on: bool | None
) -> None:
    found = attempt("job", state, exit_code=given)
    assert state_of(found) == said
    assert said in STATES
    if found.has_ended:
        assert can_resume(found) is goes_on


def test_the_words_are_those_of_the_manual() -> None:
    assert STATES == ("PENDING", "RUNNING", "FINISHED", "FAILED", "STOPPED")
    assert SUCCEEDED not in STATES
    assert {*OVER, PENDING, RUNNING} - {SUCCEEDED} <= set(STATES)
