"""Arguments and options that several commands share."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from sumgrad.jobs.support.files import expand_user

Spec = Annotated[
    str, typer.Argument(help="A YAML file, or the name of a shipped example such as 'digits'.")
]
_SET_HELP = "Override a spec key, e.g. optimizer.eta=0.1; repeatable."
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=_SET_HELP)]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on the last line of stdout.")
]
Model = Annotated[
    str, typer.Argument(help="A run id or a prefix of it, or a saved model's folder.")
]
Run = Annotated[str, typer.Argument(help="A run id or a prefix of it, or the run's folder.")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="A job id or a prefix of it.")]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        envvar="SUMGRAD_OUTPUT",
        callback=lambda folder: expand_user(str(folder)),
        help="The folder that holds the runs.",
    ),
]
DEFAULT_OUTPUT = Path("runs")
_STORE_HELP = "The MLflow store that has the run."
TrackingUri = Annotated[
    str, typer.Option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", help=_STORE_HELP)
]
DEFAULT_TRACKING_URI = "sqlite:///mlflow.db"
_CLUSTER_HELP = (
    "A cluster's name or the URL of its Ray dashboard. "
    "Default: SUMGRAD_CLUSTER, or the one of 'sumgrad cluster use'."
)
Cluster = Annotated[
    str | None, typer.Option("--cluster", "-c", metavar="NAME|URL", help=_CLUSTER_HELP)
]


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    typer.echo(json.dumps(value, allow_nan=False))


def print_result(value: Any, lines: Iterable[str], as_json: bool) -> None:
    """Print a value as JSON, or lines for the user."""
    if as_json:
        print_json(value)
    else:
        typer.echo("\n".join(lines))
