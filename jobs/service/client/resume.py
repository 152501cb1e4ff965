"""Resuming a job on its cluster: one more attempt, which continues the job's run."""

import logging
import time
from collections.abc import Sequence

from sumgrad.jobs.errors import SubmissionError
from sumgrad.jobs.service.client.commands import find_job_or_lost_run
from sumgrad.jobs.service.client.follow import wait
from sumgrad.jobs.service.client.ray_api import RayJobsClient
from sumgrad.jobs.service.client.run_view import RunView, find_run
from sumgrad.jobs.service.client.status import current_heartbeat
from sumgrad.jobs.service.client.submit import Submission, check_no_password, send
from sumgrad.jobs.service.heartbeat import HEARTBEAT_TIMEOUT_S
from sumgrad.jobs.service.ids import CLUSTER_CODE, CODE_KEY
from sumgrad.jobs.service.manifest import JobManifest
from sumgrad.jobs.service.states import Job
from sumgrad.jobs.service.versions import Versions

_logger = logging.getLogger(__name__)
_STOP_TIMEOUT_S = 40.0  #: Seconds for a stopped job to save its state.


def resume_job(
    client: RayJobsClient, job_id: str, overrides: Sequence[str], *, allow_code_change: bool = False
) -> Submission:
    """Submit another attempt of a job, which continues where the job ended, and return it.

    ``job_id`` may be the start of the job's id, and overrides are ``key=value``. The run is resumed
    by other code than it was started with only if ``allow_code_change`` is true.

    Raises:
        JobNotFound: The cluster does not know the job, or the job was deleted.
        SubmissionError: The job still runs or has finished, or an override holds a password.
    """
    for override in overrides:
        check_no_password(f"--set {override}")
    job_id, name, number, has_code = _next_attempt(client, job_id)
    manifest = JobManifest(
        job_id=job_id,
        attempt=number,
        spec_yaml=None,
        overrides=tuple(overrides),
        versions=Versions.here(),
        has_code=has_code,
        # The run's own signature refuses every change that would alter the weights.
        allow_version_mismatch=True,
        allow_code_change=allow_code_change,
    )
    submission = Submission(manifest, name)
    send(submission, client)
    return submission


def _next_attempt(client: RayJobsClient, job_id: str) -> tuple[str, str, int, bool]:
    """Return the id and name of a job that can be resumed, its next number, and who has its code.

    The last value is true if the code is sent along, as it was for the first attempt.
    """
    job = find_job_or_lost_run(client, job_id)
    if isinstance(job, RunView):
        # The cluster still has the job's folder.
        if job.status == "FINISHED":
            raise _finished(job_id)
        return job_id, job.name or job_id, (job.attempt or 1) + 1, job.has_sent_code
    if not job.latest.has_ended:
        job = _stop_silent_job(client, job)
    if job.effective.exit_code == 0:
        run = find_run(client.cluster, job.job_id)
        if run.problem or run.status == "FINISHED":
            raise _finished(job.job_id, run.problem)
        _logger.info("job %s has finished; its run in MLflow is updated", job.job_id)
    has_code = job.attempts[0].metadata.get(CODE_KEY) != CLUSTER_CODE
    return job.job_id, job.name, job.latest.number + 1, has_code


def _finished(job_id: str, problem: str = "") -> SubmissionError:
    """Return the refusal; with a problem, MLflow may lack values that an attempt could deliver."""
    unknown = f"; whether MLflow has all of its values is not known: {problem}" if problem else ""
    return SubmissionError(f"job {job_id} has finished, so there is nothing to resume{unknown}")


def _stop_silent_job(client: RayJobsClient, job: Job) -> Job:
    """Return a job without heartbeats after it was stopped; raise if it has not ended.

    A restarted head reports jobs that ended with the old one as RUNNING until it has to act on
    them. A job that runs but cannot send heartbeats saves its state when it is stopped.
    """
    run = find_run(client.cluster, job.job_id)
    beat = current_heartbeat(job, run.heartbeat)
    if beat is not None and time.time() - beat.at > HEARTBEAT_TIMEOUT_S:
        _logger.warning("job %s sends no heartbeats: stopping it first", job.job_id)
        client.stop(job.latest.submission_id)
        wait(client, job.latest.submission_id, timeout=_STOP_TIMEOUT_S)
        job = client.find_job(job.job_id)
    if not job.latest.has_ended:
        hint = client.cluster.command(f"logs -f {job.job_id}")
        raise SubmissionError(f"job {job.job_id} has not ended", hint=hint)
    return job
