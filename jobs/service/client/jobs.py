"""Jobs as people know them: an id, and the attempts that Ray knows of."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sumgrad.jobs.errors import JobNotFound
from sumgrad.jobs.service.client.ray_api import Attempt, RayJobsClient
from sumgrad.jobs.service.ids import ATTEMPT_KEY, JOB_KEY, NAME_KEY
from sumgrad.jobs.service.states import REFUSED
from sumgrad.model.validation import did_you_mean

#: Shorter beginnings of ids are not looked for.
SHORTEST_PREFIX = 3


@dataclass(frozen=True)
class Job:
    """A job and its attempts, the newest last; at least one.

    Attributes:
        job_id: Its id.
        name: Of its spec.
        attempts: Each time that it was handed to Ray.
    """

    job_id: str
    name: str
    attempts: tuple[Attempt, ...]

    @property
    def newest(self) -> Attempt:
        """The last attempt."""
        return self.attempts[-1]

    @property
    def counting(self) -> Attempt:
        """The attempt that says how the job is: the last one that was not refused.

        One that was to go on with the job in another way, and was refused, has touched nothing.
        """
        first, *later = self.attempts
        taken = [attempt for attempt in later if attempt.exit_code != REFUSED]
        return taken[-1] if taken else first

    @property
    def number(self) -> int:
        """Of the attempt that counts."""
        return _number(self.counting)

    @property
    def next_number(self) -> int:
        """Of the attempt that would come next."""
        return _number(self.newest) + 1


def jobs_in(attempts: Sequence[Attempt]) -> list[Job]:
    """The jobs among a cluster's submissions, the newest first; others' are left out."""
    by_id: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        if job_id := attempt.metadata.get(JOB_KEY):
            by_id.setdefault(job_id, []).append(attempt)
    jobs = [
        Job(job_id, found[0].metadata.get(NAME_KEY, "?"), tuple(sorted(found, key=_number)))
        for job_id, found in by_id.items()
    ]
    return sorted(jobs, key=lambda job: job.newest.start_time or 0.0, reverse=True)


def find_job(server: RayJobsClient, text: str) -> Job:
    """The job with this id, or the only one whose id begins so.

    Raises:
        JobNotFound: None, or several.
        ServiceUnreachable: The cluster does not answer.
    """
    jobs = {job.job_id: job for job in jobs_in(server.attempts())}
    if text in jobs:
        return jobs[text]
    found = [job for job_id, job in jobs.items() if job_id.startswith(text)]
    if len(text) < SHORTEST_PREFIX or not found:
        raise JobNotFound(
            f"{server.cluster.label} has no job '{text}'",
            hint=did_you_mean(text, list(jobs)) if jobs else "it has none at all",
        )
    if len(found) > 1:
        names = ", ".join(sorted(job.job_id for job in found)[:5])
        raise JobNotFound(f"several jobs begin with '{text}': {names}", hint="give more of it")
    return found[0]


def _number(attempt: Attempt) -> int:
    text = attempt.metadata.get(ATTEMPT_KEY, "1")
    return int(text) if re.fullmatch("[1-9][0-9]{0,8}", text) else 1
