"""Commands about jobs on a cluster."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sumgrad.jobs.cli.options import Json, Set, Spec

if TYPE_CHECKING:
    from sumgrad.jobs.service.client.ray_api import Attempt, RayJobsClient

#: As timeout(1) has it: what was waited for has not come in time.
_IN_VAIN = 124
Where = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        "-c",
        metavar="NAME|URL",
        help="A cluster's name, or the address of its Ray dashboard; by default SUMGRAD_CLUSTER, "
        "or the one of 'sumgrad cluster use'.",
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="A job's id; three characters may do.")]


def add_commands(app: typer.Typer) -> None:
    """Add them to the command line."""
    for command in (submit, status, logs, stop, wait, delete, doctor):
        app.command()(command)


def _server(where: str | None) -> "RayJobsClient":
    from sumgrad.jobs.config.clusters import select_cluster
    from sumgrad.jobs.service.client.ray_api import RayJobsClient

    return RayJobsClient(select_cluster(where))


@contextmanager
def _let_go(message: str, hint: str) -> Iterator[None]:
    """What Ctrl-C means where a job goes on without us.

    Raises:
        Interrupted: In its place.
    """
    from sumgrad.jobs.errors import Interrupted

    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(message, 130, hint=hint) from None


def _note(line: str) -> None:
    typer.echo(line, err=True)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, allow_nan=False))


def submit(
    spec: Spec,
    overrides: Set = None,
    cluster: Where = None,
    follow: Annotated[
        bool, typer.Option("--wait", "-w", help="Show its log, and end with its exit code.")
    ] = False,
    job_id: Annotated[
        str | None,
        typer.Option("--id", help="The job's id. Handing the same job in twice is as once."),
    ] = None,
    upload: Annotated[
        bool, typer.Option("--upload", help="Send data files of this machine along, if small.")
    ] = False,
    code: Annotated[
        str,
        typer.Option(
            help="Whose sumgrad computes: cluster, local, or auto: the cluster's own if it is "
            "the same as this one."
        ),
    ] = "auto",
    allow_version_mismatch: Annotated[
        bool, typer.Option("--allow-version-mismatch", help="Send it although versions differ.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Hand a job in to a cluster, and return at once.

    The job runs on the cluster and goes on without this machine. Relative paths and SQLite files
    of this machine mean nothing there: --upload sends small data along, file:///PATH is a path on
    the cluster's head.
    """
    from sumgrad.jobs.config.clusters import select_cluster
    from sumgrad.jobs.service.client.submit import dry_run_lines, expect_code, prepare_submission
    from sumgrad.jobs.service.client.submit import submit as send
    from sumgrad.jobs.service.client.typed import cluster_option

    if dry_run and follow:
        raise typer.BadParameter("--dry-run sends nothing, so there is nothing to --wait for")
    whose = expect_code(code)
    prepared = prepare_submission(spec, overrides or [], job_id=job_id, upload=upload)
    if dry_run:
        where = select_cluster(cluster)
        if as_json:
            _print_json(prepared.as_json(where))
        else:
            typer.echo("\n".join(dry_run_lines(prepared, where)))
        return
    server = _server(cluster)
    option = cluster_option(server.cluster)
    known = f"sumgrad status {prepared.request.job_id}{option}"
    with _let_go("interrupted", f"whether the cluster has the job says: {known}"):
        sent = send(
            prepared, server, _note, code=whose, allow_version_mismatch=allow_version_mismatch
        )
    said = "handed in" if sent.is_new else "is there already"
    lines = [f"job {sent.job_id} {said}: {server.cluster.label}"]
    if not follow:
        lines += _next_commands(sent.job_id, option)
    typer.echo("\n".join(lines), err=as_json)
    if follow:
        _follow(server, sent.submission_id, sent.job_id, as_json)
    elif as_json:
        _print_json(
            {
                "id": sent.job_id,
                "submission_id": sent.submission_id,
                "is_new": sent.is_new,
                "cluster": server.cluster.address,
            }
        )


def _next_commands(job_id: str, option: str) -> list[str]:
    """What can be done with a job that was handed in."""
    return [
        f"Follow it:     sumgrad logs -f {job_id}{option}",
        f"How it is:     sumgrad status {job_id}{option}",
        f"Stop it:       sumgrad stop {job_id}{option}",
    ]


def _follow(server: "RayJobsClient", submission_id: str, job_id: str, as_json: bool) -> None:
    """Show an attempt's log until it is over, and end as it did; Ctrl-C lets go of it."""
    from sumgrad.jobs.service.client.commands import follow_job, once_known
    from sumgrad.jobs.service.client.typed import cluster_option
    from sumgrad.jobs.service.states import can_resume

    option = cluster_option(server.cluster)
    stream = sys.stderr if as_json else sys.stdout

    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    again = f"sumgrad logs -f {job_id}{option}"
    with (
        _let_go(f"job {job_id} is no longer followed, and goes on", f"follow it again: {again}"),
        once_known(job_id, server.cluster),
    ):
        ended, result = follow_job(server, submission_id, write, _note)
    facts = _facts(job_id, ended)
    code = facts["exit_code"]
    if as_json:
        _print_json(facts | {"result": result})
    elif code:
        _note(f"job {job_id} is {facts['state']}, exit code {code}")
        if can_resume(ended):
            _note(f"Go on with it:  sumgrad resume {job_id}{option}")
    if code:
        raise typer.Exit(code)


def _facts(job_id: str, attempt: "Attempt") -> dict[str, Any]:
    """How an attempt is, for JSON: in our words, and in Ray's own."""
    from sumgrad.jobs.service.states import exit_code, state_of

    code = exit_code(attempt) if attempt.has_ended else None
    return {
        "id": job_id,
        "state": state_of(attempt),
        "ray_state": attempt.state,
        "exit_code": code,
    }


def status(job_id: JobId, cluster: Where = None, as_json: Json = False) -> None:
    """How a job is, from Ray, its run in MLflow and its own signs of life."""
    from sumgrad.jobs.service.client.commands import get_status
    from sumgrad.jobs.service.client.status import lines_of
    from sumgrad.jobs.service.client.typed import cluster_option

    server = _server(cluster)
    found, run = get_status(server, job_id)
    if as_json:
        _print_json(found.as_json())
    else:
        option = cluster_option(server.cluster)
        typer.echo("\n".join(lines_of(found, run, server.cluster.label, option)))


def logs(
    job_id: JobId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job is over.")
    ] = False,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Of an earlier attempt; by default the newest.")
    ] = None,
    cluster: Where = None,
    as_json: Json = False,
) -> None:
    """What a job has printed. With -f the exit code is the job's own; Ctrl-C does not stop it."""
    from sumgrad.jobs.service.client.commands import Log, attempt_of

    server = _server(cluster)
    job, which = attempt_of(server, job_id, attempt)
    if follow:
        _follow(server, which.submission_id, job.job_id, as_json)
        return
    text = server.log(which.submission_id)
    if as_json:
        _print_json(_facts(job.job_id, which) | {"log": text})
    else:
        log = Log(lambda piece: typer.echo(piece, nl=False))
        log.take(text)
        log.close()


def stop(job_id: JobId, cluster: Where = None, as_json: Json = False) -> None:
    """Have a job end at its next step. It is saved, and 'sumgrad resume' goes on with it."""
    from sumgrad.jobs.service.client.commands import stop_job
    from sumgrad.jobs.service.client.typed import cluster_option
    from sumgrad.jobs.service.states import state_of

    server = _server(cluster)
    job, was_running = stop_job(server, job_id)
    if as_json:
        _print_json({"id": job.job_id, "was_running": was_running})
    elif was_running:
        option = cluster_option(server.cluster)
        typer.echo(f"job {job.job_id} was told to end")
        typer.echo(f"Go on with it:  sumgrad resume {job.job_id}{option}")
    else:
        typer.echo(f"job {job.job_id} is over already ({state_of(job.counting)})")


def wait(
    job_id: JobId,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds; after them the exit code is 124.")
    ] = None,
    cluster: Where = None,
    as_json: Json = False,
) -> None:
    """Wait until a job is over; the exit code is the job's own."""
    from sumgrad.jobs.service.client.commands import once_known
    from sumgrad.jobs.service.client.follow import wait as wait_for
    from sumgrad.jobs.service.client.jobs import find_job
    from sumgrad.jobs.service.client.typed import cluster_option

    server = _server(cluster)
    job = find_job(server, job_id)
    # One that was to go on with it, and was refused, is not what became of the job.
    which = job.counting if job.newest.has_ended else job.newest
    again = f"sumgrad wait {job.job_id}{cluster_option(server.cluster)}"
    with (
        _let_go(f"job {job.job_id} goes on", f"wait for it again: {again}"),
        once_known(job.job_id, server.cluster),
    ):
        ended = wait_for(server, which.submission_id, _note, seconds=timeout)
    facts = _facts(job.job_id, ended or which)
    # That it has not come in time is said by the command's code, and not by the job's.
    code = facts["exit_code"] if ended is not None else _IN_VAIN
    if as_json:
        _print_json(facts)
    else:
        typer.echo(f"job {job.job_id} is {'not over' if ended is None else facts['state']}")
    if code:
        raise typer.Exit(code)


def delete(job_id: JobId, cluster: Where = None, as_json: Json = False) -> None:
    """Have the cluster forget a job that is over; its run in MLflow and its folder stay.

    The folder has the id as its name, on the cluster's head below SUMGRAD_OUTPUT (~/sumgrad where
    that is not set). So the id is used: another job needs another --id.
    """
    from sumgrad.jobs.service.client.commands import delete_job, what_stays

    job = delete_job(_server(cluster), job_id)
    if as_json:
        _print_json({"id": job.job_id, "deleted": len(job.attempts)})
    else:
        typer.echo("\n".join([f"job {job.job_id} is forgotten", *what_stays(job.job_id)]))


def is_elsewhere(run: str, output: Path, where: str | None) -> bool:
    """Whether an id means a job of a cluster, and not a run of this machine."""
    from sumgrad.jobs.config.clusters import find_selected_cluster
    from sumgrad.jobs.errors import RunNotFound
    from sumgrad.jobs.runs.directory import find_run

    if where is not None:
        return True
    try:
        find_run(run, output)
    except RunNotFound:
        return find_selected_cluster(None) is not None
    return False


def resume_job(job_id: str, overrides: list[str], where: str | None, as_json: bool) -> None:
    """Go on with a job on a cluster."""
    from sumgrad.jobs.service.client.commands import resume_job as go_on
    from sumgrad.jobs.service.client.typed import cluster_option

    server = _server(where)
    sent = go_on(server, job_id, overrides, _note)
    if as_json:
        _print_json({"id": sent.job_id, "submission_id": sent.submission_id})
    else:
        option = cluster_option(server.cluster)
        typer.echo(f"job {sent.job_id} goes on\nFollow it:  sumgrad logs -f {sent.job_id}{option}")


def list_jobs(where: str | None, as_json: bool) -> bool:
    """Print the jobs of the chosen cluster; False if none was chosen."""
    from sumgrad.jobs.config.clusters import find_selected_cluster
    from sumgrad.jobs.service.client.commands import job_table, list_of_jobs
    from sumgrad.jobs.service.client.ray_api import RayJobsClient
    from sumgrad.jobs.service.client.typed import cluster_option

    chosen = find_selected_cluster(where)
    if chosen is None:
        return False
    jobs = list_of_jobs(RayJobsClient(chosen))
    if as_json:
        _print_json([job.as_json() for job in jobs])
    else:
        typer.echo("\n".join(job_table(jobs, chosen.label, cluster_option(chosen))))
    return True


def doctor(
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="A path that the cluster should be able to read; repeatable."),
    ] = None,
    cluster: Where = None,
    as_json: Json = False,
) -> None:
    """Check everything that a job needs from a cluster, and explain what is wrong."""
    from dataclasses import asdict

    from sumgrad.jobs.config.clusters import select_cluster
    from sumgrad.jobs.service.client.doctor import run_checks, table

    checks = run_checks(select_cluster(cluster), data or [])
    if as_json:
        _print_json([asdict(check) for check in checks])
    else:
        typer.echo("\n".join(table(checks)))
    if any(check.status == "FAIL" for check in checks):
        raise typer.Exit(3)
