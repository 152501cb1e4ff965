"""The commands. Each parses, calls one library function, and prints."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sumgrad.jobs.cli import cluster, config, jobs
from sumgrad.jobs.cli.errors import Commands, ResultPrinted
from sumgrad.jobs.cli.options import (
    DEFAULT_OUTPUT,
    DEFAULT_TRACKING_URI,
    Json,
    Model,
    Output,
    Run,
    Set,
    Spec,
    TrackingUri,
)

if TYPE_CHECKING:
    from sumgrad.jobs.runs.progress import Reporter
    from sumgrad.jobs.runs.summary import Summary
    from sumgrad.model.errors import SumgradError

app = typer.Typer(
    cls=Commands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(config.app, name="config")
app.add_typer(cluster.app, name="cluster")
jobs.add_commands(app)


@app.callback(invoke_without_command=True)
def sumgrad(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    _debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Distributed data-parallel training: the same weights for any number of workers."""
    # --debug is here for the help text; the boundary takes it from anywhere on the line.
    if version:
        from importlib import metadata

        typer.echo(f"sumgrad {metadata.version('sumgrad')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def train(spec: Spec, overrides: Set = None, as_json: Json = False) -> None:
    """Run a training job in the foreground.

    Exit codes: 0 finished, 1 training failed, 2 bad spec, 3 cluster or tracking unreachable,
    130 interrupted, 143 terminated.
    """
    from sumgrad.jobs.runs.progress import make_reporter
    from sumgrad.jobs.runs.training import train as run_training
    from sumgrad.jobs.spec.loader import load_spec

    loaded = load_spec(spec, overrides or [])
    # The JSON object has stdout for itself.
    reporter = make_reporter(sys.stderr if as_json else sys.stdout)
    _tell(*run_training(loaded.spec, reporter), reporter, as_json)


def _tell(
    summary: "Summary", failure: "SumgradError | None", reporter: "Reporter", as_json: bool
) -> None:
    """Print how a run ended, and end as it did."""
    for line in summary.lines():
        reporter.note(line)
    if as_json:
        typer.echo(summary.to_json())
    if failure is None:
        return
    if as_json:
        raise ResultPrinted from failure
    raise failure


@app.command()
def resume(
    run: Run,
    overrides: Set = None,
    as_json: Json = False,
    output: Output = DEFAULT_OUTPUT,
    on_cluster: jobs.Where = None,
) -> None:
    """Go on with a run that was interrupted or killed, or failed for want of workers.

    The same bits, and the same run in MLflow, as if nothing had happened. More workers or another
    address are fine (--set cluster.workers=8); anything that would change the weights is refused.
    Exit codes as for train. With --cluster, or for an id that no run of this folder has, it is a
    job of the cluster that goes on, there.
    """
    from sumgrad.jobs.runs.directory import SPEC, find_run
    from sumgrad.jobs.runs.progress import make_reporter
    from sumgrad.jobs.runs.training import resume as go_on
    from sumgrad.jobs.spec.loader import load_spec

    if jobs.is_elsewhere(run, output, on_cluster):
        jobs.resume_job(run, overrides or [], on_cluster, as_json)
        return
    folder = find_run(run, output)
    loaded = load_spec(str(folder.path / SPEC), overrides or [])
    reporter = make_reporter(sys.stderr if as_json else sys.stdout)
    _tell(*go_on(folder, loaded.spec, reporter), reporter, as_json)


@app.command("list")
def list_runs(
    as_json: Json = False,
    output: Output = DEFAULT_OUTPUT,
    on_cluster: jobs.Where = None,
    local: Annotated[
        bool, typer.Option("--local", help="The runs of this folder, though a cluster is chosen.")
    ] = False,
) -> None:
    """The runs of a folder, or the jobs of the cluster that was chosen; the newest first.

    Of the runs of a folder one whose process was killed is put right.
    """
    from sumgrad.jobs.runs.registry import list_runs, table

    if local and on_cluster is not None:
        raise typer.BadParameter("--local and --cluster mean two different lists")
    if not local and jobs.list_jobs(on_cluster, as_json):
        return
    runs = list_runs(output, lambda line: typer.echo(line, err=True))
    typer.echo(json.dumps(runs) if as_json else "\n".join(table(runs)))


@app.command()
def sync(
    run: Annotated[
        str | None, typer.Argument(help="A run; by default all of which MLflow lacks something.")
    ] = None,
    output: Output = DEFAULT_OUTPUT,
    tracking_uri: Annotated[
        str | None,
        typer.Option("--tracking-uri", help="Another address than the one of the run's spec."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell MLflow what it missed of a run while its server was away."""
    from sumgrad.jobs.runs.registry import sync_runs

    lines, complete = sync_runs(run, output, tracking_uri)
    facts = {"is_complete": complete, "lines": lines}
    typer.echo(json.dumps(facts) if as_json else "\n".join(lines))
    if not complete:
        raise typer.Exit(3)


@app.command()
def evaluate(
    model: Model,
    data: Annotated[str, typer.Argument(help="Labelled rows; any format that training takes.")],
    as_json: Json = False,
    tracking_uri: TrackingUri = DEFAULT_TRACKING_URI,
) -> None:
    """Loss and accuracy of a trained model on labelled rows."""
    from sumgrad.jobs.runs.evaluate import evaluate_model
    from sumgrad.jobs.runs.find_model import open_model

    result = evaluate_model(open_model(model, tracking_uri), data)
    typer.echo(result.to_json() if as_json else "\n".join(result.lines()))


@app.command()
def predict(
    model: Model,
    data: Annotated[str, typer.Argument(help="Rows with the model's features.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Where to write: a .parquet or a .csv file.")
    ] = Path("predictions.parquet"),
    tracking_uri: TrackingUri = DEFAULT_TRACKING_URI,
) -> None:
    """Predictions for a file of rows, with the probability of every class."""
    from sumgrad.jobs.runs.evaluate import predict_file
    from sumgrad.jobs.runs.find_model import open_model

    rows = predict_file(open_model(model, tracking_uri), data, out)
    typer.echo(f"{rows:,} predictions written to {out}")


@app.command()
def gradcheck(
    spec: Spec,
    overrides: Set = None,
    features: Annotated[
        int | None,
        typer.Option(min=1, help="Check on so many made-up features instead of the job's data."),
    ] = None,
) -> None:
    """Prove the gradients of a spec's network against numeric derivatives, layer by layer."""
    from sumgrad.jobs.runs.gradient_check import check_spec_gradients, table
    from sumgrad.jobs.spec.loader import load_spec

    checks = check_spec_gradients(load_spec(spec, overrides or []).spec, features)
    typer.echo("\n".join(table(checks)))
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


@app.command()
def init(
    example: Annotated[
        str | None, typer.Argument(help="A shipped example to start from; see --list.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("job.yaml"),
    list_examples: Annotated[
        bool, typer.Option("--list", help="List the shipped examples and write nothing.")
    ] = False,
) -> None:
    """Write a commented job spec to start from."""
    from sumgrad.jobs.spec.template import describe_examples, write_template

    if list_examples:
        typer.echo("\n".join(describe_examples()))
        return
    write_template(out, example)
    typer.echo(
        f"{out} written. Edit it, then:\n  sumgrad config validate {out}\n  sumgrad train {out}"
    )


@app.command()
def ui(
    tracking_uri: TrackingUri = DEFAULT_TRACKING_URI,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Open the MLflow UI on the runs, on this machine only."""
    from sumgrad.jobs.tracking.user_interface import serve_ui

    raise typer.Exit(serve_ui(tracking_uri, port))
