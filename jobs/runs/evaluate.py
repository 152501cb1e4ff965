"""Using a trained model: find it, evaluate it on rows, predict them, count what it rejects."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sumgrad.cluster.compute.worker import Task, Workload
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import Plan
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.cluster.training.state import Evaluation
from sumgrad.jobs.artifacts.saved_model import PREDICTION_BATCH_SIZE, SavedModel, load_model
from sumgrad.jobs.config.tracking_uri import resolve_tracking_uri
from sumgrad.jobs.data.prediction import check_writable, read_for_model, write_columns
from sumgrad.jobs.data.prepare import PreparedData
from sumgrad.jobs.errors import RunNotFound
from sumgrad.jobs.runs.directory import find_run
from sumgrad.jobs.spec.loader import default_output
from sumgrad.jobs.support.files import expand_user
from sumgrad.jobs.tracking.metadata import RECORD
from sumgrad.jobs.tracking.model_logging import find_model
from sumgrad.jobs.tracking.outbox import MODEL
from sumgrad.model.validation import Array


def open_model(name: str, tracking_uri: str) -> SavedModel:
    """Load a model by its folder, its run's folder, or a run id or a unique prefix of one.

    A run is looked up in the default folder of runs first, and then in MLflow.

    Raises:
        ModelNotFound: No model has that name, or it is damaged.
        RunAmbiguous: The ids of several runs of the folder start with the name.
        TrackingError: The store cannot be used.
    """
    folder = Path(name)
    if (folder / RECORD).is_file():
        return load_model(folder / MODEL)
    if folder.is_dir():
        return load_model(folder)
    # MLflow does not have the model of a run that is not delivered yet.
    local = _find_local_model(name)
    return load_model(local or find_model(name, resolve_tracking_uri(tracking_uri, Path.cwd())))


def _find_local_model(name: str) -> Path | None:
    """Return the model of a run in the default folder of runs; None if it has none."""
    try:
        model = find_run(name, expand_user(default_output())).model
    except RunNotFound:
        return None
    return model if model.is_dir() else None


def evaluate_model(model: SavedModel, source: str) -> Evaluation:
    """Evaluate a model on labelled rows, with the deterministic sums of training.

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
    accuracy = None if model.schema.classes is None else total.correct / total.count
    return Evaluation(total.divergence / total.count, accuracy, total.count)


def predict_file(model: SavedModel, source: str, out: Path) -> int:
    """Write predictions for every row of a file, in its order, and return the number of rows.

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


@dataclass(frozen=True)
class Rejection:
    """The fractions of the data set's images, and of the images made from them, that are rejected.

    The training rows had no out-of-distribution images of the `unseen` kinds.
    """

    in_distribution: float
    out_of_distribution: dict[str, float]
    unseen: tuple[str, ...]

    def metrics(self) -> dict[str, float]:
        """Return the fractions as MLflow metrics."""
        return {"test_rejected_in_distribution": self.in_distribution} | {
            f"test_rejected_{kind}": share for kind, share in self.out_of_distribution.items()
        }

    def lines(self) -> list[str]:
        """Return lines for the summary."""
        return [f"rejects   {self.in_distribution:.1%} of the data set's images"] + [
            f"          {share:.1%} of '{kind}' images"
            + (" (a kind not seen in training)" if kind in self.unseen else "")
            for kind, share in self.out_of_distribution.items()
        ]


def measure_rejection(
    model: SavedModel, data: PreparedData, unseen: tuple[str, ...]
) -> Rejection | None:
    """Count the rejected test rows; None without a reject class or test rows."""
    if model.schema.reject is None or data.test is None:
        return None
    reject = model.network.outputs - 1

    def rejected(x: Array) -> float:
        return float(np.mean(model.outputs(x).argmax(axis=1) == reject))

    images = data.test.x[data.test.d != reject]
    made = {kind: rejected(rows.x) for kind, rows in data.out_of_distribution.items()}
    return Rejection(rejected(images), made, unseen)
