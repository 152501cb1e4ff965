"""Evaluate a trained model on the rows of a file, or write its predictions for them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sumgrad.cluster.compute.worker import Task, Workload
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import Plan
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.jobs.artifacts.saved_model import PREDICTION_BATCH_SIZE, SavedModel
from sumgrad.jobs.data.prediction import check_writable, read_for_model, write_columns


@dataclass(frozen=True)
class EvaluationResult:
    """A model's figures over all rows of a file.

    Attributes:
        loss: (1/T) Σ Div.
        accuracy: The fraction classified correctly; None for a regression.
        rows: T.
    """

    loss: float
    accuracy: float | None
    rows: int

    def to_json(self) -> str:
        """Return one object on one line."""
        return json.dumps(asdict(self))

    def describe(self) -> str:
        """Return a line for the user."""
        accuracy = "" if self.accuracy is None else f"accuracy {self.accuracy:.2%}, "
        return f"{accuracy}loss {self.loss:.4f} on {self.rows:,} rows"


def evaluate_model(model: SavedModel, source: str) -> EvaluationResult:
    """Evaluate a model on labelled rows, with the deterministic sums of training.

    Args:
        model: The trained model.
        source: As in a spec's ``data.train``.

    Raises:
        DataNotFound: The file or a column does not exist.
        DataError: The model cannot take the rows.
    """
    read = read_for_model(source, model.schema, model.network.dtype, with_labels=True)
    assert read.labels is not None  # noqa: S101 - requested above
    x = model.schema.scaling.apply(read.x, model.network.dtype)
    d = model.schema.encode(read.labels, model.network.dtype)
    plan = Plan(len(x), None, PREDICTION_BATCH_SIZE)
    workload = Workload(model.network, {"test": ArraySource(x, d)}, {"test": plan})
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
        model: The trained model.
        source: As in a spec's ``data.train``; labels are not needed.
        out: A ``.parquet`` or a ``.csv`` file.

    Returns:
        The number of rows.

    Raises:
        DataNotFound: The file or a column does not exist.
        DataError: The model cannot take the rows.
        JobError: The output cannot be written.
    """
    check_writable(out)
    read = read_for_model(source, model.schema, model.network.dtype, with_labels=False)
    x = model.schema.scaling.apply(read.x, model.network.dtype)
    write_columns(out, model.predict_columns(x))
    return len(x)
