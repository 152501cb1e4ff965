"""Commands about trained models: evaluate, predict."""

import json
from pathlib import Path
from typing import Annotated

import typer

from sumgrad.jobs.cli.options import DEFAULT_TRACKING_URI, Json, Model, TrackingUri

app = typer.Typer()


@app.command()
def evaluate(
    model: Model,
    data: Annotated[str, typer.Argument(help="Labelled rows, in any format of training data.")],
    tracking_uri: TrackingUri = DEFAULT_TRACKING_URI,
    as_json: Json = False,
) -> None:
    """Compute a model's loss and accuracy on labelled rows."""
    from sumgrad.jobs.runs.evaluate import evaluate_model, open_model
    from sumgrad.jobs.runs.progress import describe_evaluation

    result = evaluate_model(open_model(model, tracking_uri), data)
    value = {"loss": result.loss, "accuracy": result.accuracy, "rows": result.count}
    typer.echo(json.dumps(value) if as_json else describe_evaluation(result))


@app.command()
def predict(
    model: Model,
    data: Annotated[str, typer.Argument(help="Rows with the model's features.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The .parquet or .csv file to write.")
    ] = Path("predictions.parquet"),
    tracking_uri: TrackingUri = DEFAULT_TRACKING_URI,
) -> None:
    """Write predictions for a file of rows.

    For a classification, the file has the probability of every class.
    """
    from sumgrad.jobs.runs.evaluate import open_model, predict_file

    rows = predict_file(open_model(model, tracking_uri), data, out)
    typer.echo(f"{rows:,} predictions written to {out}")
