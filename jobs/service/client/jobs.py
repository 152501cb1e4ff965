"""Jobs: an id, and the attempts of that job that Ray knows."""

from collections.abc import Sequence
from dataclasses import dataclass

from sumgrad.jobs.errors import JobNotFound
from sumgrad.jobs.service.client.ray_api import RayJobsClient
from sumgrad.jobs.service.ids import JOB_KEY, NAME_KEY
from sumgrad.jobs.service.states import REFUSED, Attempt
from sumgrad.model.validation import did_you_mean

_MIN_PREFIX = 3


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


def find_job(client: RayJobsClient, text: str) -> Job:
    """Return the job with this id, or the only one whose id starts with it.

    Raises:
        JobNotFound: There is none, or several.
    """
    jobs = {job.job_id: job for job in group_by_job(client.list_attempts())}
    if text in jobs:
        return jobs[text]
    found = sorted(job_id for job_id in jobs if job_id.startswith(text))
    if len(text) < _MIN_PREFIX:
        raise JobNotFound(
            f"'{text}' is too short to name a job",
            hint=f"give at least {_MIN_PREFIX} characters of the job's id",
        )
    if not found:
        raise JobNotFound(
            f"{client.cluster.label} has no job '{text}'",
            hint=did_you_mean(text, list(jobs)) if jobs else "it has no jobs",
        )
    if len(found) > 1:
        names = ", ".join(found[:5])
        raise JobNotFound(f"the ids of several jobs start with '{text}': {names}")
    return jobs[found[0]]
