"""What the commands do with a job on a cluster."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.errors import JobLost, JobNotFound, ServiceUnreachable, SubmissionError
from sumgrad.jobs.runs.registry import aligned
from sumgrad.jobs.service.client.expectation import ANSWER_KEY, answer_digest, expected_of
from sumgrad.jobs.service.client.follow import follow, wait
from sumgrad.jobs.service.client.jobs import Job, find_job, jobs_in
from sumgrad.jobs.service.client.preflight import cluster_versions
from sumgrad.jobs.service.client.ray_api import Attempt, RayJobsClient
from sumgrad.jobs.service.client.run_view import RunView, look_up_runs
from sumgrad.jobs.service.client.sending import metadata_of, send
from sumgrad.jobs.service.client.status import (
    Status,
    beat_of,
    needs_log,
    reconcile,
    status_without_ray,
)
from sumgrad.jobs.service.client.submit import Submitted, compare_versions, expect_no_password
from sumgrad.jobs.service.client.typed import cluster_option
from sumgrad.jobs.service.host.heartbeat import HEARTBEAT_TIMEOUT_S
from sumgrad.jobs.service.ids import is_job_id, submission_id
from sumgrad.jobs.service.manifest import RESULT_PREFIX, JobManifest
from sumgrad.jobs.service.states import REFUSED, exit_code
from sumgrad.jobs.service.versions import Versions

#: A log that takes longer is too long to be read for a line about how a job is, in seconds.
_LOG_S = 5.0
#: And for the logs of all jobs of a list there is so long together, in seconds.
_LOGS_S = 10.0
#: A job that is stopped has so long to save itself, in seconds.
_STOP_S = 40.0


def get_status(server: RayJobsClient, job_id: str) -> tuple[Status, RunView]:
    """How a job is.

    Raises:
        JobNotFound: There is none.
        ServiceUnreachable: The cluster does not answer.
    """
    try:
        job = find_job(server, job_id)
    except JobNotFound as error:
        run = _run_of_forgotten(server, job_id, error)
        return status_without_ray(job_id, run), run
    run = look_up_runs(server.cluster, [job.job_id])[job.job_id]
    return _reconciled(server, job, run), run


def _reconciled(server: RayJobsClient, job: Job, run: RunView, seconds: float = _LOG_S) -> Status:
    """How a job is, with what its log says where nothing else can say it.

    Args:
        server: The cluster's job server.
        job: As Ray sees it.
        run: As MLflow sees it.
        seconds: How long its log may take; with none left it is not read.
    """
    log, now = None, time.time()
    if seconds > 0 and needs_log(job, run, now):
        with suppress(ServiceUnreachable, JobNotFound):
            log = server.log(job.counting.submission_id, seconds=min(seconds, _LOG_S))
    return reconcile(job, run, now, log)


def _run_of_forgotten(server: RayJobsClient, job_id: str, unknown: JobNotFound) -> RunView:
    """The run of a job that Ray does not know, and MLflow does.

    Raises:
        JobNotFound: MLflow does not know it either: the given one.
    """
    if not is_job_id(job_id):
        raise unknown
    run = look_up_runs(server.cluster, [job_id])[job_id]
    if run.run_id is None:
        raise unknown
    return run


def list_of_jobs(server: RayJobsClient) -> list[Status]:
    """All jobs of a cluster, the newest first; then what Ray has forgotten and can go on."""
    jobs = jobs_in(server.attempts())
    known = [job.job_id for job in jobs]
    runs = look_up_runs(server.cluster, known, others=True)
    give_up = time.monotonic() + _LOGS_S
    found = [_reconciled(server, job, runs[job.job_id], give_up - time.monotonic()) for job in jobs]
    forgotten = [status_without_ray(name, run) for name, run in runs.items() if name not in known]
    return found + [status for status in forgotten if status.can_resume]


def job_table(jobs: Sequence[Status], cluster: str, option: str = "") -> list[str]:
    """The jobs as lines for a person.

    Args:
        jobs: How they are.
        cluster: What to call the cluster.
        option: What has to follow a command for it to mean that cluster.
    """
    if not jobs:
        return [f"{cluster} has no jobs; hand one in with: sumgrad submit digits{option}"]
    rows = [("job", "name", "state", "why", "attempt", "began (UTC)")]
    for job in jobs:
        began = datetime.fromtimestamp(job.start_time, UTC) if job.start_time else None
        when = f"{began:%Y-%m-%d %H:%M:%S}" if began else "-"
        name, attempt = job.name or "-", str(job.attempt or "-")
        rows.append((job.job_id, name, job.state, job.reason, attempt, when))
    return aligned(rows)


@dataclass
class Log:
    """A job's log on its way to a person: the line with the result is kept back.

    Attributes:
        write: Takes text.
        result: The run's result, once it has come.
    """

    write: Callable[[str], None]
    result: dict[str, Any] | None = None
    #: The beginning of a line that may be the one with the result.
    _begun: str = ""
    #: Whether the line's beginning has been written already.
    _is_within: bool = False

    def take(self, text: str) -> None:
        """Take a piece of the log."""
        for part in text.splitlines(keepends=True):
            self._begun += part
            is_whole = self._begun.endswith("\n")
            if (
                is_whole
                or self._is_within
                or not RESULT_PREFIX.startswith(self._begun[: len(RESULT_PREFIX)])
            ):
                self.close()
                self._is_within = not is_whole

    def close(self) -> None:
        """There is no more."""
        result = None if self._is_within else _result_in(self._begun)
        if result is not None:
            self.result = result
        elif self._begun:
            self.write(self._begun)
        self._begun = ""


def _result_in(line: str) -> dict[str, Any] | None:
    if not line.startswith(RESULT_PREFIX):
        return None
    try:
        value = json.loads(line.removeprefix(RESULT_PREFIX), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")


def follow_job(
    server: RayJobsClient,
    attempt: str,
    write: Callable[[str], None],
    note: Callable[[str], None],
) -> tuple[Attempt, dict[str, Any] | None]:
    """Hand on what an attempt prints until it is over; gives how it ended, and its result."""
    log = Log(write)
    ended = follow(server, attempt, log.take, note)
    log.close()
    return ended, log.result if _is_its_own(log.result, exit_code(ended)) else None


@contextmanager
def once_known(job_id: str, cluster: Cluster) -> Iterator[None]:
    """What it means where a job that the cluster had is looked for in vain.

    Ray keeps its jobs in its head, and they end with it; another one knows nothing of them.

    Raises:
        JobLost: In the place of `JobNotFound`.
    """
    try:
        yield
    except JobNotFound:
        option = cluster_option(cluster)
        raise JobLost(
            f"{cluster.label} has forgotten job {job_id}: it was started anew, and its jobs ended "
            "with it, or somebody has deleted this one",
            hint=f"'sumgrad status {job_id}{option}' says how far it came, "
            f"'sumgrad resume {job_id}{option}' goes on with it",
        ) from None


def _is_its_own(result: dict[str, Any] | None, code: int) -> bool:
    """Whether a result is that of an attempt which ended so.

    A log may begin with that of an earlier job of the same id, which was deleted.
    """
    return (
        result is not None
        and code != REFUSED
        and (result.get("status") == "FINISHED") == (not code)
    )


def attempt_of(server: RayJobsClient, job_id: str, number: int | None) -> tuple[Job, Attempt]:
    """A job, and one of its attempts; by default the newest.

    Raises:
        JobNotFound: There is no such attempt.
    """
    job = find_job(server, job_id)
    if number is None:
        return job, job.newest
    name = submission_id(job.job_id, number)
    for attempt in job.attempts:
        if attempt.submission_id == name:
            return job, attempt
    raise JobNotFound(f"job {job.job_id} has no attempt {number}")


def stop_job(server: RayJobsClient, job_id: str) -> tuple[Job, bool]:
    """Ask a job to end at its next step; gives it, and whether it still ran."""
    job = find_job(server, job_id)
    if job.newest.has_ended:
        return job, False
    server.stop(job.newest.submission_id)
    return job, True


def delete_job(server: RayJobsClient, job_id: str) -> Job:
    """Have the cluster forget a job that is over; its run in MLflow and its files stay.

    Raises:
        SubmissionError: It is not over.
    """
    job = find_job(server, job_id)
    if not job.newest.has_ended:
        option = cluster_option(server.cluster)
        raise SubmissionError(
            f"job {job.job_id} is not over", hint=f"sumgrad stop {job.job_id}{option}"
        )
    for attempt in job.attempts:
        server.delete(attempt.submission_id)
    return job


def what_stays(job_id: str) -> list[str]:
    """What there still is of a job that was deleted, for a person."""
    place = f"the folder '{job_id}' on the cluster's head, below SUMGRAD_OUTPUT"
    return [
        f"What stays:  its run in MLflow, and {place} (~/sumgrad where that is not set)",
        f"So the id '{job_id}' is used: another job needs another --id",
    ]


def resume_job(
    server: RayJobsClient, job_id: str, overrides: Sequence[str], note: Callable[[str], None]
) -> Submitted:
    """Hand a job in again, which goes on where it was; a run that is over is not run again.

    Raises:
        SubmissionError: It is still running, or came to its end; or a password would be sent.
    """
    for override in overrides:
        expect_no_password(f"--set {override}")
    job_id, name, number = _next_attempt(server, job_id, note)
    here, there = Versions.here(), cluster_versions(server, server.server_info())
    # Bits are safe: the run's own record refuses to go on with another arithmetic.
    has_code = compare_versions(here, there, note, "auto", allow_version_mismatch=True)
    request = JobManifest(
        job_id,
        number,
        None,
        here,
        overrides=tuple(overrides),
        has_code=has_code,
        expected=expected_of(here, there, has_code=has_code),
    )
    metadata = metadata_of(request, name) | {ANSWER_KEY: answer_digest(there)}
    attempt = send(server, request, metadata)
    return Submitted(job_id, attempt, is_new=True)


def _next_attempt(
    server: RayJobsClient, job_id: str, note: Callable[[str], None]
) -> tuple[str, str, int]:
    """Id and name of a job that can be gone on with, and the number of the attempt to do it.

    Raises:
        JobNotFound: Neither Ray nor MLflow know it.
        SubmissionError: It is still running, or came to its end.
    """
    try:
        job = find_job(server, job_id)
    except JobNotFound as error:
        # Ray has forgotten it. The cluster has its folder, and MLflow how often it was tried.
        run = _run_of_forgotten(server, job_id, error)
        if run.status == "FINISHED":
            raise _is_finished(job_id) from None
        return job_id, run.name or job_id, (run.attempt or 1) + 1
    if not job.newest.has_ended and _is_silent(server, job):
        # A head that was started anew calls jobs RUNNING that ended with it, until it is asked to
        # do something about them. One that lives, but cannot be heard, is saved by it.
        note(f"job {job.job_id} gives no sign of life: it is stopped first")
        server.stop(job.newest.submission_id)
        wait(server, job.newest.submission_id, note, seconds=_STOP_S)
        job = find_job(server, job.job_id)
    if not job.newest.has_ended:
        option = cluster_option(server.cluster)
        raise SubmissionError(
            f"job {job.job_id} is not over", hint=f"sumgrad logs -f {job.job_id}{option}"
        )
    if exit_code(job.counting) == 0:
        run = look_up_runs(server.cluster, [job.job_id])[job.job_id]
        if run.problem or run.status == "FINISHED":
            raise _is_finished(job.job_id)
        note(f"job {job.job_id} came to its end, and MLflow is told what it does not know of it")
    return job.job_id, job.name, job.next_number


def _is_finished(job_id: str) -> SubmissionError:
    return SubmissionError(f"job {job_id} came to its end, there is nothing to go on with")


def _is_silent(server: RayJobsClient, job: Job) -> bool:
    """Whether the newest attempt has given a sign of life, and gives none any more."""
    run = look_up_runs(server.cluster, [job.job_id])[job.job_id]
    # One that has just been handed in has given none yet: those before it are another's.
    beat = beat_of(job, run.heartbeat)
    return beat is not None and time.time() - beat.at > HEARTBEAT_TIMEOUT_S
