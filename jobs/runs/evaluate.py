"""A trained model on rows of a file: its loss and accuracy, or its predictions."""

import json
from dataclasses import dataclass
from pathlib import Path

from sumgrad.cluster.compute.worker import Task, Workload
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import Plan
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.jobs.artifacts.saved_model import PREDICTION_BATCH_SIZE, SavedModel
from sumgrad.jobs.data.prediction import check_writable, read_for_model, write_columns


@dataclass(frozen=True)
class EvaluationResult:
    """Over all rows of a file.

    Attributes:
        loss: (1/T) Σ Div.
        accuracy: The share put into the right class; None for a regression.
        rows: T.
    """

    loss: float
    accuracy: float | None
    rows: int

    def to_json(self) -> str:
        """One object on one line."""
        return json.dumps({"loss": self.loss, "accuracy": self.accuracy, "rows": self.rows})

    def lines(self) -> list[str]:
        """For a person."""
        right = "" if self.accuracy is None else f"{self.accuracy:.2%} right, "
        return [f"{right}loss {self.loss:.4f} on {self.rows:,} rows"]


def evaluate_model(model: SavedModel, source: str) -> EvaluationResult:
    """Evaluate on labelled rows, by the same exact sums as training.

    Args:
        model: Trained.
        source: As in a spec's ``data.train``.

    Raises:
        DataNotFound: Nothing there, or a column is missing.
        DataError: Rows that the model cannot take.
    """
    read = read_for_model(source, model.schema, model.network.dtype, with_labels=True)
    assert read.labels is not None  # noqa: S101 - they were asked for
    x = model.schema.scaling.apply(read.x, model.network.dtype)
    d = model.schema.encode(read.labels, model.network.dtype)
    workload = Workload(
        model.network,
        {"test": ArraySource(x, d)},
        {"test": Plan(len(x), None, PREDICTION_BATCH_SIZE)},
    )
    with InlineReducer(workload) as reducer:
        total = reducer.reduce(Task("evaluation", "test"), model.parameters.flat)
    has_classes = model.schema.classes is not None
    return EvaluationResult(
        loss=total.divergence / total.count,
        accuracy=total.correct / total.count if has_classes else None,
        rows=total.count,
    )


def predict_file(model: SavedModel, source: str, out: Path) -> int:
    """Write predictions for every row of a file, in its order.

    Args:
        model: Trained.
        source: As in a spec's ``data.train``; labels are not needed.
        out: A ``.parquet`` or a ``.csv`` file.

    Returns:
        How many rows.

    Raises:
        DataNotFound: Nothing there, or a column is missing.
        DataError: Rows that the model cannot take.
        JobError: The file cannot be written.
    """
    check_writable(out)
    read = read_for_model(source, model.schema, model.network.dtype, with_labels=False)
    x = model.schema.scaling.apply(read.x, model.network.dtype)
    write_columns(out, model.predict_columns(x))
    return len(x)
