"""Attempts to run a job as Ray reports them, and the states and exit codes that commands report.

Ray calls a finished job SUCCEEDED, and a job that a signal ended FAILED; commands report FINISHED
and STOPPED.
"""

from collections.abc import Mapping
from dataclasses import dataclass

PENDING, RUNNING, STOPPED, FAILED = "PENDING", "RUNNING", "STOPPED", "FAILED"
FINISHED = "FINISHED"
#: What commands report.
STATES = (PENDING, RUNNING, FINISHED, FAILED, STOPPED)
#: Ray's word for FINISHED.
SUCCEEDED = "SUCCEEDED"
#: Ray's states of an attempt that has ended, and all of its states.
END_STATES = frozenset({STOPPED, SUCCEEDED, FAILED})
RAY_STATES = END_STATES | {PENDING, RUNNING}

#: The exit code of a job that was refused before it computed anything.
REFUSED = 2
#: A shell's exit code for a process that a signal ended: this and the signal's number.
SIGNAL_BASE = 128
_INTERRUPTED, _TERMINATED = 130, 143


@dataclass(frozen=True)
class Attempt:
    """One submission to Ray.

    Attributes:
        state: One of `RAY_STATES`.
        message: Ray's description of the state.
        exit_code: Of the job's process; negative for a signal; None while it is not known.
        start_time: When it was submitted, in seconds since 1970.
        metadata: As given at the submission.
    """

    submission_id: str
    state: str
    message: str
    exit_code: int | None
    start_time: float | None
    end_time: float | None
    metadata: Mapping[str, str]

    @property
    def has_ended(self) -> bool:
        """Whether it has succeeded, failed or been stopped."""
        return self.state in END_STATES


def state_of(attempt: Attempt) -> str:
    """Return the state that commands report, one of `STATES`."""
    if attempt.state == SUCCEEDED:
        return FINISHED
    # A job ends with these codes on a signal, or the signal ends it before it handles signals.
    if attempt.state == FAILED and exit_code(attempt) in (_INTERRUPTED, _TERMINATED):
        return STOPPED
    return attempt.state


def exit_code(attempt: Attempt) -> int:
    """Return the exit code of a command that waited for an attempt: the job's own if known."""
    if attempt.state == SUCCEEDED:
        return 0
    if attempt.exit_code:
        return attempt.exit_code if attempt.exit_code > 0 else SIGNAL_BASE - attempt.exit_code
    return _TERMINATED if attempt.state == STOPPED else 1


def can_resume(attempt: Attempt) -> bool | None:
    """Return whether ``sumgrad resume`` can continue an attempt; None if Ray does not know.

    A training that diverged and one whose disk was full end with the same code, and only the
    second one can be resumed.
    """
    if state_of(attempt) not in (STOPPED, FAILED) or attempt.exit_code == REFUSED:
        return False
    return None if attempt.exit_code == 1 else True
