"""Jobs and their attempts as Ray reports them, and the states and exit codes of commands.

Ray calls a finished job SUCCEEDED, and a job that a signal ended FAILED; commands report FINISHED
and STOPPED.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from sumgrad.jobs.service.ids import ATTEMPT_KEY, JOB_KEY, NAME_KEY
from sumgrad.jobs.support.text import one_line

PENDING, RUNNING, STOPPED, FAILED = "PENDING", "RUNNING", "STOPPED", "FAILED"
#: FINISHED in commands, SUCCEEDED in Ray; the other states have one name.
FINISHED, SUCCEEDED = "FINISHED", "SUCCEEDED"
#: Ray's states of an attempt that has ended, and all of its states.
END_STATES = frozenset({STOPPED, SUCCEEDED, FAILED})
RAY_STATES = END_STATES | {PENDING, RUNNING}

REFUSED = 2  #: The exit code of a job that was refused before it computed anything.
#: A shell's exit code for a process that a signal ended: this and the signal's number.
SIGNAL_BASE = 128
_INTERRUPTED, _TERMINATED = 130, 143
_MAX_TIME_S = 253_370_764_800  #: The last second of the year 9999, after which `datetime` ends.


@dataclass(frozen=True)
class Attempt:
    """One submission to Ray."""

    submission_id: str
    ray_state: str  #: One of `RAY_STATES`.
    message: str  #: Ray's description of the state.
    #: The exit code of the job's process; negative for a signal; None while it is not known.
    driver_exit_code: int | None
    start_time: float | None  #: When it was submitted, in seconds since 1970.
    end_time: float | None
    metadata: Mapping[str, str]  #: Metadata as given at the submission.

    @classmethod
    def from_ray(cls, details: Mapping[str, Any]) -> Self:
        """Return the attempt that Ray describes.

        Raises:
            Exception: The details are not in Ray's format; the type depends on what is wrong.
        """
        if details["status"] not in RAY_STATES:
            raise ValueError(details["status"])
        code = details.get("driver_exit_code")
        metadata = details.get("metadata") or {}
        # Other programs choose the texts of their jobs, and those may contain control sequences.
        return cls(
            submission_id=one_line(details["submission_id"] or ""),
            ray_state=str(details["status"]),
            message=str(details.get("message") or ""),
            driver_exit_code=None if code is None else int(code),
            start_time=_parse_time(details.get("start_time")),
            end_time=_parse_time(details.get("end_time")),
            metadata={str(key): one_line(text) for key, text in metadata.items()},
        )

    @property
    def number(self) -> int:
        """The number of the attempt, from 1; 1 if the metadata have no valid number."""
        text = self.metadata.get(ATTEMPT_KEY, "1")
        return int(text) if re.fullmatch("[1-9][0-9]{0,8}", text) else 1

    @property
    def has_ended(self) -> bool:
        """Whether it has succeeded, failed or been stopped."""
        return self.ray_state in END_STATES

    @property
    def state(self) -> str:
        """What commands report: Ray's state, or FINISHED or STOPPED."""
        if self.ray_state == SUCCEEDED:
            return FINISHED
        # A job ends with these codes on a signal, or the signal ends it before it handles signals.
        if self.ray_state == FAILED and self.exit_code in (_INTERRUPTED, _TERMINATED):
            return STOPPED
        return self.ray_state

    @property
    def exit_code(self) -> int:
        """The exit code of a command that waited for it to end: the job's own if known."""
        code = self.driver_exit_code
        if self.ray_state == SUCCEEDED:
            return 0
        if code:
            return code if code > 0 else SIGNAL_BASE - code
        return _TERMINATED if self.ray_state == STOPPED else 1

    @property
    def can_resume(self) -> bool | None:
        """Whether ``sumgrad resume`` can continue it; None if Ray does not know.

        A training that diverged and one whose disk was full end with the same code, and only the
        second one can be resumed.
        """
        if self.state not in (STOPPED, FAILED) or self.driver_exit_code == REFUSED:
            return False
        return None if self.driver_exit_code == 1 else True


@dataclass(frozen=True)
class Job:
    """A job, its spec's name, and its attempts, one or more, the latest last."""

    job_id: str
    name: str
    attempts: tuple[Attempt, ...]

    @property
    def latest(self) -> Attempt:
        """The last attempt."""
        return self.attempts[-1]

    @property
    def effective(self) -> Attempt:
        """The attempt that decides the job's state: the last one that was not refused.

        An attempt that was refused, such as one with another seed, has changed nothing.
        """
        first, *later = self.attempts
        accepted = [attempt for attempt in later if attempt.driver_exit_code != REFUSED]
        return accepted[-1] if accepted else first


def group_by_job(attempts: Sequence[Attempt]) -> list[Job]:
    """Return the jobs of a cluster's attempts, the newest first; other programs' are left out."""
    by_id: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        if job_id := attempt.metadata.get(JOB_KEY):
            by_id.setdefault(job_id, []).append(attempt)
    jobs = []
    for job_id, found in by_id.items():
        found.sort(key=lambda attempt: attempt.number)
        jobs.append(Job(job_id, found[0].metadata.get(NAME_KEY, "?"), tuple(found)))
    return sorted(jobs, key=lambda job: job.latest.start_time or 0.0, reverse=True)


def _parse_time(milliseconds: Any) -> float | None:
    """Return a time in seconds that `datetime` can represent."""
    if not milliseconds:
        return None
    seconds = float(milliseconds) / 1000
    if not 0 <= seconds < _MAX_TIME_S:
        raise ValueError(milliseconds)
    return seconds
