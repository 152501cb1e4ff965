"""Attempts to run a job as Ray reports them, and the states and exit codes that commands report.

Ray calls a finished job SUCCEEDED, and a job that a signal ended FAILED; commands report FINISHED
and STOPPED.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from sumgrad.jobs.service.ids import ATTEMPT_KEY
from sumgrad.jobs.support.text import one_line

PENDING, RUNNING, STOPPED, FAILED = "PENDING", "RUNNING", "STOPPED", "FAILED"
#: FINISHED in commands, SUCCEEDED in Ray; the other states have one name.
FINISHED, SUCCEEDED = "FINISHED", "SUCCEEDED"
#: Ray's states of an attempt that has ended, and all of its states.
END_STATES = frozenset({STOPPED, SUCCEEDED, FAILED})
RAY_STATES = END_STATES | {PENDING, RUNNING}

#: The exit code of a job that was refused before it computed anything.
REFUSED = 2
#: A shell's exit code for a process that a signal ended: this and the signal's number.
SIGNAL_BASE = 128
_INTERRUPTED, _TERMINATED = 130, 143
#: The last second of the year 9999, after which `datetime` ends.
_MAX_TIME_S = 253_370_764_800


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

    @classmethod
    def from_ray(cls, details: Mapping[str, Any]) -> Self:
        """Return the attempt that Ray describes; an error of any kind if it is not one of Ray's."""
        if details["status"] not in RAY_STATES:
            raise ValueError(details["status"])
        code = details.get("driver_exit_code")
        metadata = details.get("metadata") or {}
        # Other programs choose the texts of their jobs, and those may contain control sequences.
        return cls(
            submission_id=one_line(details["submission_id"] or ""),
            state=str(details["status"]),
            message=str(details.get("message") or ""),
            exit_code=None if code is None else int(code),
            start_time=_parse_time(details.get("start_time")),
            end_time=_parse_time(details.get("end_time")),
            metadata={str(key): one_line(text) for key, text in metadata.items()},
        )

    @property
    def number(self) -> int:
        """Number of the attempt, from 1, which is also for those with an invalid one."""
        text = self.metadata.get(ATTEMPT_KEY, "1")
        return int(text) if re.fullmatch("[1-9][0-9]{0,8}", text) else 1

    @property
    def has_ended(self) -> bool:
        """Whether it has succeeded, failed or been stopped."""
        return self.state in END_STATES


def _parse_time(milliseconds: Any) -> float | None:
    """Return a time in seconds that `datetime` can represent."""
    if not milliseconds:
        return None
    seconds = float(milliseconds) / 1000
    if not 0 <= seconds < _MAX_TIME_S:
        raise ValueError(milliseconds)
    return seconds


def state_of(attempt: Attempt) -> str:
    """Return the state that commands report: Ray's, or FINISHED or STOPPED."""
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
