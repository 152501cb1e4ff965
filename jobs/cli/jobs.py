"""Commands about the jobs of a cluster: submit, jobs, status, logs, wait, stop, delete."""

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sumgrad.jobs.cli.options import Cluster, JobId, Json, Set, Spec, print_json, print_result

if TYPE_CHECKING:
    from sumgrad.jobs.service.client.ray_api import RayJobsClient
    from sumgrad.jobs.service.states import Attempt

app = typer.Typer()
_logger = logging.getLogger(__name__)

_TIMED_OUT = 124  #: The exit code of timeout(1).
_NEXT_COMMANDS = {"Follow its log:": "logs -f", "See its state:": "status", "Stop it:": "stop"}


def connect(cluster: str | None) -> "RayJobsClient":
    """Return a client of the selected cluster."""
    from sumgrad.jobs.config.clusters import select_cluster
    from sumgrad.jobs.service.client.ray_api import RayJobsClient

    return RayJobsClient(select_cluster(cluster))


@contextmanager
def _detach_on_interrupt(message: str, hint: str) -> Iterator[None]:
    """Raise `Interrupted` with this message and hint for Ctrl-C, which leaves the job running."""
    from sumgrad.jobs.errors import Interrupted

    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(message, 130, hint=hint) from None


@app.command()
def submit(
    spec: Spec,
    overrides: Set = None,
    cluster: Cluster = None,
    follow: Annotated[
        bool, typer.Option("--wait", "-w", help="Print the job's log and exit with its code.")
    ] = False,
    job_id: Annotated[
        str | None,
        typer.Option("--id", help="The job's id; submitting the same job twice runs it once."),
    ] = None,
    upload: Annotated[
        bool, typer.Option("--upload", help="Send small data files of this machine along.")
    ] = False,
    code: Annotated[
        Literal["local", "cluster"],
        typer.Option(help="Run this machine's sumgrad, or the one installed on the cluster."),
    ] = "local",
    allow_version_mismatch: Annotated[
        bool, typer.Option("--allow-version-mismatch", help="Run although versions differ.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be sent, and send nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Submit a job to a cluster and return immediately.

    The job does not need this machine any more. Relative paths and SQLite files of this machine
    do not exist on the cluster: --upload sends small data along, and file:///PATH is a path on
    the cluster's head node.
    """
    from sumgrad.jobs.config.clusters import select_cluster
    from sumgrad.jobs.service.client.submit import prepare_submission
    from sumgrad.jobs.service.client.submit import submit as send
    from sumgrad.jobs.spec.text import dump_yaml

    if dry_run and follow:
        raise typer.BadParameter("--dry-run sends nothing, so there is nothing to --wait for")
    submission = prepare_submission(
        spec,
        overrides or [],
        job_id=job_id,
        upload=upload,
        send_code=code == "local",
        allow_version_mismatch=allow_version_mismatch,
    )
    if dry_run:
        value = submission.as_json(select_cluster(cluster))
        print_result(value, ["would send:", dump_yaml(value).rstrip()], as_json)
        return
    client = connect(cluster)
    job_id = submission.manifest.job_id
    status = client.cluster.command(f"status {job_id}")
    with _detach_on_interrupt("interrupted", f"to see whether the cluster has the job: {status}"):
        attempt, is_new = send(submission, client)
    state = "submitted" if is_new else "was submitted before"
    typer.echo(f"job {job_id} {state}: {client.cluster.label}", err=as_json)
    if follow:
        _follow(client, attempt, job_id, as_json)
        return
    for purpose, command in _NEXT_COMMANDS.items():
        typer.echo(f"{purpose:<16} {client.cluster.command(f'{command} {job_id}')}", err=as_json)
    if as_json:
        value = {"id": job_id, "submission_id": attempt, "is_new": is_new}
        print_json(value | {"cluster": client.cluster.address})


@app.command()
def jobs(cluster: Cluster = None, as_json: Json = False) -> None:
    """List the jobs of a cluster, the newest first."""
    from sumgrad.jobs.service.client.commands import job_table, list_jobs

    client = connect(cluster)
    found = list_jobs(client)
    print_result([asdict(job) for job in found], job_table(found, client.cluster), as_json)


@app.command()
def status(job_id: JobId, cluster: Cluster = None, as_json: Json = False) -> None:
    """Show a job's state, progress and latest metrics.

    They come from Ray, from its run in MLflow and from the job's heartbeat.
    """
    from sumgrad.jobs.service.client.commands import get_status
    from sumgrad.jobs.service.client.status import status_lines

    client = connect(cluster)
    found, run = get_status(client, job_id)
    print_result(asdict(found), status_lines(found, run, client.cluster), as_json)


@app.command()
def logs(
    job_id: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print until the job ends.")
    ] = False,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Number of the attempt; default: the newest.")
    ] = None,
    cluster: Cluster = None,
    as_json: Json = False,
) -> None:
    """Print a job's log.

    With --follow the exit code is the job's own; Ctrl-C leaves the job running.
    """
    from sumgrad.jobs.service.client.commands import find_attempt
    from sumgrad.jobs.service.client.follow import LogPrinter

    client = connect(cluster)
    job, chosen = find_attempt(client, job_id, attempt)
    if follow:
        _follow(client, chosen.submission_id, job.job_id, as_json)
        return
    text = client.get_log(chosen.submission_id)
    if as_json:
        print_json(_as_json(job.job_id, chosen) | {"log": text})
    else:
        log = LogPrinter(lambda piece: typer.echo(piece, nl=False))
        log.feed(text)
        log.close()


def _follow(client: "RayJobsClient", submission_id: str, job_id: str, as_json: bool) -> None:
    """Print an attempt's log until it ends, and exit with its code; Ctrl-C detaches."""
    from sumgrad.jobs.service.client.follow import follow_job

    stream = sys.stderr if as_json else sys.stdout

    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    hint = f"follow it again: {client.cluster.command(f'logs -f {job_id}')}"
    with _detach_on_interrupt(f"job {job_id} is no longer followed; it continues", hint):
        ended, result = follow_job(client, submission_id, write)
    value = _as_json(job_id, ended)
    code = value["exit_code"]
    if as_json:
        print_json(value | {"result": result})
    elif code:
        _logger.info("job %s is %s, exit code %s", job_id, value["state"], code)
        if ended.can_resume:
            _logger.info("Resume it:  %s", client.cluster.command(f"resume {job_id}"))
    if code:
        raise typer.Exit(code)


def _as_json(job_id: str, attempt: "Attempt") -> dict[str, Any]:
    """Return an attempt's state for JSON, in sumgrad's words and in Ray's."""
    return {
        "id": job_id,
        "state": attempt.state,
        "ray_state": attempt.ray_state,
        "exit_code": attempt.exit_code if attempt.has_ended else None,
    }


@app.command()
def wait(
    job_id: JobId,
    timeout: Annotated[
        float,
        typer.Option(
            min=0, show_default=False, help="Maximum seconds to wait; then exit with 124."
        ),
    ] = math.inf,
    cluster: Cluster = None,
    as_json: Json = False,
) -> None:
    """Wait until a job ends and exit with its code."""
    from sumgrad.jobs.service.client.follow import wait as wait_for

    client = connect(cluster)
    job = client.find_job(job_id)
    # A refused attempt to resume the job does not change how the job ended.
    attempt = job.effective if job.latest.has_ended else job.latest
    hint = f"wait again: {client.cluster.command(f'wait {job.job_id}')}"
    with _detach_on_interrupt(f"job {job.job_id} continues", hint):
        ended = wait_for(client, attempt.submission_id, timeout=timeout)
    value = _as_json(job.job_id, ended or attempt)
    state = f"is {value['state']}" if ended else "has not ended"
    print_result(value, [f"job {job.job_id} {state}"], as_json)
    if code := value["exit_code"] if ended is not None else _TIMED_OUT:
        raise typer.Exit(code)


@app.command()
def stop(job_id: JobId, cluster: Cluster = None, as_json: Json = False) -> None:
    """Stop a job at its next step; it can be resumed."""
    from sumgrad.jobs.service.client.commands import stop_job

    client = connect(cluster)
    job, was_running = stop_job(client, job_id)
    lines = [f"job {job.job_id} has already ended ({job.effective.state})"]
    if was_running:
        lines = [
            f"job {job.job_id} will stop at its next step",
            f"Resume it:  {client.cluster.command(f'resume {job.job_id}')}",
        ]
    print_result({"id": job.job_id, "was_running": was_running}, lines, as_json)


@app.command()
def delete(job_id: JobId, cluster: Cluster = None, as_json: Json = False) -> None:
    """Delete a job that has ended from the cluster.

    Its run in MLflow and its folder on the cluster's head stay, so a new job needs another --id.
    The deleted job can no longer be resumed from here.
    """
    from sumgrad.jobs.service.client.commands import delete_job, deletion_lines

    job, run = delete_job(connect(cluster), job_id)
    value = {"id": job.job_id, "deleted": len(job.attempts)}
    print_result(value, deletion_lines(job.job_id, run), as_json)
