"""How a job is, in the five words that all commands have for it, and the code it ends with.

Ray's own words are other ones: it calls a job SUCCEEDED, and FAILED also one that was told to end.
"""

from jobs.service.ray_jobs import FAILED, PENDING, RUNNING, STOPPED, SUCCEEDED, Attempt

FINISHED = "FINISHED"
#: All of them.
STATES = (PENDING, RUNNING, FINISHED, FAILED, STOPPED)
#: Exit codes of jobs that were told to end.
_ASKED = (130, 143)
#: As a shell has it: 128 and the signal's number.
_SIGNAL = 128
_TERMINATED = 143


def state_of(attempt: Attempt) -> str:
    """One of `STATES`, by what Ray knows of an attempt."""
    if attempt.state == SUCCEEDED:
        return FINISHED
    if attempt.state == FAILED and attempt.exit_code in _ASKED:
        return STOPPED
    return attempt.state


def exit_code(attempt: Attempt) -> int:
    """What a command that waited for it ends with: the job's own code where there is one."""
    if attempt.state == SUCCEEDED:
        return 0
    if attempt.exit_code:
        # Ray has the negative number of a signal for a process that one has ended.
        return attempt.exit_code if attempt.exit_code > 0 else _SIGNAL - attempt.exit_code
    return _TERMINATED if attempt.state == STOPPED else 1


def can_go_on(attempt: Attempt) -> bool:
    """Whether ``sumgrad resume`` makes sense of an attempt that is over."""
    return state_of(attempt) in (STOPPED, FAILED) and attempt.exit_code not in (1, 2)
