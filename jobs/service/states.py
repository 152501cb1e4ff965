"""How a job is, in the five words that all commands have for it, and the code it ends with.

Ray's own words are other ones: it calls a job SUCCEEDED, and FAILED also one that was told to end.
"""

from sumgrad.jobs.service.client.ray_api import (
    FAILED,
    PENDING,
    RUNNING,
    STOPPED,
    SUCCEEDED,
    Attempt,
)

FINISHED = "FINISHED"
#: All of them.
STATES = (PENDING, RUNNING, FINISHED, FAILED, STOPPED)
#: Exit codes of jobs that were told to end.
_ASKED = (130, 143)
#: As a shell has it: 128 and the signal's number.
SIGNAL = 128
#: The exit code of what cannot be run as it is, and was refused before it began.
REFUSED = 2
_TERMINATED = 143


def state_of(attempt: Attempt) -> str:
    """One of `STATES`, by what Ray knows of an attempt."""
    if attempt.state == SUCCEEDED:
        return FINISHED
    # By its exit code or, before it could mind it, by the signal itself; whoever has sent that.
    if attempt.state == FAILED and exit_code(attempt) in _ASKED:
        return STOPPED
    return attempt.state


def exit_code(attempt: Attempt) -> int:
    """What a command that waited for it ends with: the job's own code where there is one."""
    if attempt.state == SUCCEEDED:
        return 0
    if attempt.exit_code:
        # Ray has the negative number of a signal for a process that one has ended.
        return attempt.exit_code if attempt.exit_code > 0 else SIGNAL - attempt.exit_code
    return _TERMINATED if attempt.state == STOPPED else 1


def can_resume(attempt: Attempt) -> bool | None:
    """Whether ``sumgrad resume`` makes sense of an attempt that is over; None if Ray cannot say it.

    A training that diverged and one whose disk was full end with the same code; only the second
    one has something to go on with.
    """
    if state_of(attempt) not in (STOPPED, FAILED) or attempt.exit_code == REFUSED:
        return False
    return None if attempt.exit_code == 1 else True
