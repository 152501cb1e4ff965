"""The commands. Each parses, calls one library function, and prints."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from jobs.cli import config
from jobs.cli.options import DEFAULT_TRACKING_URI, Json, Model, Set, Spec, TrackingUri

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(config.app, name="config")


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
    from jobs.reporting import make_reporter
    from jobs.spec_loader import load_spec
    from jobs.training import train as run_training

    loaded = load_spec(spec, overrides or [])
    # The JSON object has stdout for itself.
    reporter = make_reporter(sys.stderr if as_json else sys.stdout)
    summary, failure = run_training(loaded.spec, reporter)
    for line in summary.lines():
        reporter.note(line)
    if as_json:
        typer.echo(summary.to_json())
    if failure is not None:
        raise failure


@app.command()
def evaluate(
    model: Model,
    data: Annotated[str, typer.Argument(help="Labelled rows; any format that training takes.")],
    as_json: Json = False,
    tracking_uri: TrackingUri = DEFAULT_TRACKING_URI,
) -> None:
    """Loss and accuracy of a trained model on labelled rows."""
    from jobs.evaluation import evaluate_model
    from jobs.model_lookup import open_model

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
    from jobs.evaluation import predict_file
    from jobs.model_lookup import open_model

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
    from jobs.gradient_check import check_spec, table
    from jobs.spec_loader import load_spec

    checks = check_spec(load_spec(spec, overrides or []).spec, features)
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
    from jobs.starting_spec import list_of_examples, write_starting_spec

    if list_examples:
        typer.echo("\n".join(list_of_examples()))
        return
    write_starting_spec(out, example)
    typer.echo(
        f"{out} written. Edit it, then:\n  sumgrad config validate {out}\n  sumgrad train {out}"
    )


@app.command()
def ui(
    tracking_uri: TrackingUri = DEFAULT_TRACKING_URI,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Open the MLflow UI on the runs, on this machine only."""
    from jobs.user_interface import serve_ui

    raise typer.Exit(serve_ui(tracking_uri, port))
