"""Commands about runs on this machine: train, resume, runs, sync, ui."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sumgrad.jobs.cli.jobs import connect
from sumgrad.jobs.cli.options import (
    DEFAULT_OUTPUT,
    DEFAULT_TRACKING_URI,
    Cluster,
    Json,
    Output,
    Run,
    Set,
    Spec,
    TrackingUri,
    print_result,
)
from sumgrad.jobs.support.error_report import ResultPrinted
from sumgrad.jobs.support.logs import logs_through

if TYPE_CHECKING:
    from sumgrad.jobs.runs.directory import RunDirectory
    from sumgrad.jobs.runs.progress import Reporter
    from sumgrad.jobs.runs.summary import Summary
    from sumgrad.model.errors import SumgradError

app = typer.Typer()


@app.command()
def train(spec: Spec, overrides: Set = None, as_json: Json = False) -> None:
    """Train a model from a job spec.

    Exit codes: 0 finished, 1 training failed, 2 bad usage or spec, 3 cluster or tracking
    unreachable, 130 interrupted, 143 terminated.
    """
    from sumgrad.jobs.runs.training import train as start
    from sumgrad.jobs.spec.loader import load_spec

    job = load_spec(spec, overrides or []).spec
    _run(lambda reporter: start(job, reporter), as_json)


@app.command()
def resume(
    run: Run,
    overrides: Set = None,
    output: Output = DEFAULT_OUTPUT,
    cluster: Cluster = None,
    allow_code_change: Annotated[
        bool,
        typer.Option(
            "--allow-code-change",
            help="Resume although sumgrad's code has changed; the weights may differ.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Resume an interrupted run; the weights are bit-identical.

    The run continues as if it had never stopped, with the same run in MLflow. It may use other
    workers or another address, such as --set cluster.workers=8; a change that would alter the
    weights is refused, even one of sumgrad's code. With --cluster, or for an id that is not in
    this folder, it resumes a job on that cluster. Exit codes are those of train.
    """
    from sumgrad.jobs.runs.directory import SPEC
    from sumgrad.jobs.runs.training import LaunchOptions
    from sumgrad.jobs.runs.training import resume as start
    from sumgrad.jobs.spec.loader import load_spec

    directory = _find_run_here(run, output) if cluster is None else None
    if directory is None:
        _resume_job(run, overrides or [], cluster, allow_code_change, as_json)
        return
    job = load_spec(str(directory.path / SPEC), overrides or []).spec
    options = LaunchOptions(allow_code_change=allow_code_change)
    _run(lambda reporter: start(directory, job, reporter, options), as_json)


def _find_run_here(name: str, output: Path) -> "RunDirectory | None":
    """Return a run in this folder; None if the name may be that of a job on the default cluster."""
    from sumgrad.jobs.config.clusters import find_selected_cluster
    from sumgrad.jobs.errors import RunNotFound
    from sumgrad.jobs.runs.directory import find_run

    try:
        return find_run(name, output)
    except RunNotFound:
        if find_selected_cluster(None) is None:
            raise
        return None


def _resume_job(
    job_id: str, overrides: list[str], cluster: str | None, allow_code_change: bool, as_json: bool
) -> None:
    from sumgrad.jobs.service.client.resume import resume_job

    client = connect(cluster)
    sent = resume_job(client, job_id, overrides, allow_code_change=allow_code_change)
    job_id = sent.manifest.job_id
    lines = [
        f"job {job_id} was resumed",
        f"Follow its log:  {client.cluster.command(f'logs -f {job_id}')}",
    ]
    print_result({"id": job_id, "submission_id": sent.id}, lines, as_json)


def _run(start: "Callable[[Reporter], tuple[Summary, SumgradError | None]]", as_json: bool) -> None:
    """Train in the foreground, print the summary, and raise the error that ended the run."""
    from sumgrad.jobs.runs.progress import make_reporter

    # With --json, stdout is for the JSON object alone.
    reporter = make_reporter(sys.stderr if as_json else sys.stdout)
    with logs_through(reporter.note):
        summary, failure = start(reporter)
    for line in summary.lines():
        reporter.note(line)
    if as_json:
        typer.echo(summary.to_json())
    if failure is not None and as_json:
        raise ResultPrinted from failure
    if failure is not None:
        raise failure


@app.command()
def runs(output: Output = DEFAULT_OUTPUT, as_json: Json = False) -> None:
    """List the runs in this folder, the newest first.

    The status of a run whose process was killed is corrected, in MLflow too.
    """
    from sumgrad.jobs.runs.registry import format_run_table, list_runs

    found = list_runs(output)
    print_result(found, format_run_table(found), as_json)


@app.command()
def sync(
    run: Annotated[
        str | None, typer.Argument(help="A run; by default all that MLflow lacks something of.")
    ] = None,
    output: Output = DEFAULT_OUTPUT,
    tracking_uri: Annotated[
        str | None,
        typer.Option("--tracking-uri", help="MLflow store to deliver to; default: the run's own."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Deliver to MLflow what it missed while it was away.

    Exit code 3 if something could not be delivered.
    """
    from sumgrad.jobs.runs.sync import sync_runs

    lines, is_complete = sync_runs(run, output, tracking_uri)
    print_result({"is_complete": is_complete, "lines": lines}, lines, as_json)
    if not is_complete:
        raise typer.Exit(3)


@app.command()
def ui(
    tracking_uri: TrackingUri = DEFAULT_TRACKING_URI,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="The port to listen on, on this machine only.")
    ] = 5000,
) -> None:
    """Open the MLflow UI on the runs."""
    from sumgrad.jobs.tracking.user_interface import serve_ui

    raise typer.Exit(serve_ui(tracking_uri, port))
