"""Arguments and options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

import typer

Spec = Annotated[
    str, typer.Argument(help="A YAML file, or the name of a shipped example such as 'digits'.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the spec, such as optimizer.eta=0.1. May be repeated.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on the last line of stdout.")
]
Model = Annotated[
    str,
    typer.Argument(help="A run id of MLflow (six characters may do), or a saved model's folder."),
]
Run = Annotated[str, typer.Argument(help="A run's id (six characters may do), or its folder.")]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        envvar="SUMGRAD_OUTPUT",
        callback=lambda folder: Path(os.path.expanduser(folder)),  # noqa: PTH111 - raises nothing
        help="The folder that the runs are in.",
    ),
]
DEFAULT_OUTPUT = Path("runs")
TrackingUri = Annotated[
    str,
    typer.Option(
        "--tracking-uri",
        envvar="MLFLOW_TRACKING_URI",
        help="The MLflow store that the run is in.",
    ),
]
DEFAULT_TRACKING_URI = "sqlite:///mlflow.db"
