"""The five states that commands report, and their exit codes."""

import pytest

from sumgrad.jobs.service.states import (
    FAILED,
    FINISHED,
    PENDING,
    RAY_STATES,
    RUNNING,
    STOPPED,
    SUCCEEDED,
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
