"""What the commands do with the jobs of a cluster: show, list, stop, delete."""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.errors import JobNotFound, ServiceUnreachable, SubmissionError, TrackingError
from sumgrad.jobs.service.client.ray_api import RayJobsClient
from sumgrad.jobs.service.client.run_view import RunView, find_run, find_runs, mark_deleted
from sumgrad.jobs.service.client.status import Status, needs_log, reconcile, status_without_ray
from sumgrad.jobs.service.ids import is_job_id
from sumgrad.jobs.service.states import Attempt, Job
from sumgrad.jobs.support.text import align_columns

_logger = logging.getLogger(__name__)
#: Seconds for reading the log of one job, and the logs of all jobs of a list.
_LOG_TIMEOUT_S, _ALL_LOGS_TIMEOUT_S = 5.0, 10.0


def get_status(client: RayJobsClient, job_id: str) -> tuple[Status, RunView]:
    """Return the status of a job, and its run in MLflow, or raise `JobNotFound`."""
    job = find_job_or_lost_run(client, job_id)
    if isinstance(job, RunView):
        return status_without_ray(job_id, job), job
    run = find_run(client.cluster, job.job_id)
    return _reconcile(client, job, run), run


def list_jobs(client: RayJobsClient) -> list[Status]:
    """Return a cluster's jobs, the newest first, then lost ones that can be resumed."""
    jobs = client.list_jobs()
    runs = find_runs(client.cluster)
    lost = runs.keys() - {job.job_id for job in jobs}
    lost_jobs = [
        status_without_ray(job_id, run)
        for job_id, run in runs.items()
        if job_id in lost and not run.is_deleted
    ]
    deadline = time.monotonic() + _ALL_LOGS_TIMEOUT_S
    found = [_reconcile(client, job, runs[job.job_id], deadline - time.monotonic()) for job in jobs]
    return found + [status for status in lost_jobs if status.can_resume]


def _reconcile(
    client: RayJobsClient, job: Job, run: RunView, timeout: float = _LOG_TIMEOUT_S
) -> Status:
    """Return the status of a job; read its log within ``timeout`` seconds if that is needed."""
    log, now = None, time.time()
    if timeout > 0 and needs_log(job, run, now):
        with suppress(ServiceUnreachable, JobNotFound):
            log = client.get_log(job.effective.submission_id, timeout=min(timeout, _LOG_TIMEOUT_S))
    return reconcile(job, run, now, log)


def job_table(jobs: Sequence[Status], cluster: Cluster) -> list[str]:
    """Return a table of a cluster's jobs as lines of text."""
    if not jobs:
        return [f"{cluster.label} has no jobs; submit one: {cluster.command('submit digits')}"]
    rows = [("job", "name", "state", "reason", "attempt", "submitted (UTC)")]
    for job in jobs:
        start = datetime.fromtimestamp(job.start_time, UTC) if job.start_time else None
        when = f"{start:%Y-%m-%d %H:%M:%S}" if start else "-"
        attempt = str(job.attempt or "-")
        rows.append((job.job_id, job.name or "-", job.state, job.reason, attempt, when))
    return align_columns(rows)


def find_attempt(client: RayJobsClient, job_id: str, number: int | None) -> tuple[Job, Attempt]:
    """Return a job and one of its attempts, the latest for None, or raise `JobNotFound`."""
    job = client.find_job(job_id)
    for attempt in reversed(job.attempts):
        if number in (None, attempt.number):
            return job, attempt
    raise JobNotFound(f"job {job.job_id} has no attempt {number}")


def stop_job(client: RayJobsClient, job_id: str) -> tuple[Job, bool]:
    """Ask a job to end at its next step; return the job, and whether it was running."""
    job = client.find_job(job_id)
    if job.latest.has_ended:
        return job, False
    client.stop(job.latest.submission_id)
    return job, True


def delete_job(client: RayJobsClient, job_id: str) -> tuple[Job, RunView]:
    """Delete a job that has ended from the cluster, and return it and its run, which stays.

    The run is marked in MLflow, so that ``status`` and ``resume`` do not take the job for one that
    was lost with Ray's head. Raise `SubmissionError` if the job has not ended.
    """
    job = client.find_job(job_id)
    if not job.latest.has_ended:
        hint = client.cluster.command(f"stop {job.job_id}")
        raise SubmissionError(f"job {job.job_id} has not ended", hint=hint)
    run = find_run(client.cluster, job.job_id)
    try:
        if client.cluster.tracking_uri is not None:
            mark_deleted(client.cluster, run)
    except TrackingError as error:
        problem = f"MLflow does not record that job {job.job_id} was deleted ({error.message})"
        _logger.warning("%s: 'sumgrad resume' can still find its run", problem)
    for attempt in job.attempts:
        client.delete(attempt.submission_id)
    return job, run


def deletion_lines(job_id: str, run: RunView) -> list[str]:
    """Return what a deleted job leaves behind, as lines of text."""
    return [
        f"job {job_id} is deleted from the cluster",
        f"What stays:  {_leftovers(job_id, run)}",
        f"The id '{job_id}' stays in use: give another job another --id",
    ]


def find_job_or_lost_run(client: RayJobsClient, job_id: str) -> Job | RunView:
    """Return a job, or the run of one that Ray's head lost in a restart, or raise `JobNotFound`."""
    try:
        return client.find_job(job_id)
    except JobNotFound:
        run = find_run(client.cluster, job_id) if is_job_id(job_id) else RunView()
        if run.run_id is None:
            raise
    if run.is_deleted:
        raise JobNotFound(
            f"job {job_id} was deleted from {client.cluster.label}",
            hint=f"{_leftovers(job_id, run)} stay; to resume it there: "
            f"sumgrad resume {run.run_id} --output {_folder(job_id, run)}/runs",
        )
    return run


def _leftovers(job_id: str, run: RunView) -> str:
    kept = f"its folder {_folder(job_id, run)} on the cluster's head"
    return f"its run {run.run_id} in MLflow and {kept}" if run.run_id else kept


def _folder(job_id: str, run: RunView) -> str:
    return run.folder or f"$SUMGRAD_OUTPUT/{job_id}"
