"""Logging a run's model to MLflow as a self-contained pyfunc model.

`mlflow.pyfunc.log_model` uses MLflow's global tracking URI and experiment. This module takes the
same steps with a client that is bound to one store.
"""

import json
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sumgrad.jobs.artifacts.code_copy import copy_code, no_write_by_others
from sumgrad.jobs.artifacts.saved_model import load_model
from sumgrad.jobs.data.schema import DataSchema
from sumgrad.jobs.errors import JobError
from sumgrad.jobs.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.models import ModelSignature
    from pandas import DataFrame

#: The model's name in its run: ``runs:/<run>/model``.
MODEL_NAME = "model"
#: The saved-model folder among the MLflow model's artifacts.
ARTIFACT = "saved_model"
_ENTRY = Path(__file__).parents[1] / "artifacts" / "pyfunc_model.py"
#: The maximum number of columns whose signature accepts any number type. MLflow needs a microsecond
#: per value to check these, so wider rows, such as images, have the example's types.
_MAX_UNTYPED_COLUMNS = 100
_REQUIREMENTS = ("mlflow", "numpy", "pandas", "safetensors")


def log_model(store: Store, run_id: str, folder: Path, example: Any, step: int) -> str:
    """Log a saved-model folder as the run's model, and the step's metrics as the model's.

    Args:
        store: An open store.
        run_id: MLflow's id of the run that trained it.
        folder: The saved model.
        example: A few raw rows: a DataFrame of the feature columns, or an array (N, D_0). They
            become the input example, and their types the signature.
        step: The epoch that the weights come from.

    Returns:
        The model's id; ``models:/<id>`` loads it.
    """
    from mlflow.entities import LoggedModelOutput

    client = store.client
    run = client.get_run(run_id)
    model = client.create_logged_model(
        run.info.experiment_id,
        name=MODEL_NAME,
        source_run_id=run_id,
        params=run.data.params,
        model_type="sumgrad",
    )
    try:
        with tempfile.TemporaryDirectory() as temporary, no_write_by_others():
            built = Path(temporary, "built")
            _build(built, folder, example, run, model.model_id, model.artifact_location)
            client.log_model_artifacts(model.model_id, str(built))
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
    _link_metrics(store, run, model.model_id, step)
    return str(model.model_id)


def _build(
    built: Path, folder: Path, example: Any, run: "Run", model_id: str, location: str
) -> None:
    """Write the MLflow model's folder."""
    import mlflow.pyfunc
    from mlflow.models import Model

    parts = built.with_name("parts")
    parts.mkdir()
    entry, package = copy_code(_ENTRY, parts)
    # MLflow stores an artifact under the name of its folder, which `find_model` expects.
    artifact = shutil.copytree(folder, parts / ARTIFACT)
    mlflow.pyfunc.save_model(
        path=str(built),
        python_model=str(entry),
        artifacts={ARTIFACT: str(artifact)},
        code_paths=[str(package)],
        # Without these MLflow would load the model in a new process to infer them.
        pip_requirements=[f"{name}=={metadata.version(name)}" for name in _REQUIREMENTS],
        signature=_signature(folder, example),
        input_example=example,
        mlflow_model=Model(
            artifact_path=location,
            run_id=run.info.run_id,
            model_uuid=model_id,
            model_id=model_id,
        ),
    )


def _signature(folder: Path, example: Any) -> "ModelSignature":
    """Return the types of the model's inputs, from the example, and of its outputs."""
    from mlflow.models import infer_signature
    from mlflow.types.schema import AnyType, ColSpec, Schema
    from pandas import DataFrame

    saved = load_model(folder)
    zeros = np.zeros((1, saved.network.inputs), dtype=saved.network.dtype)
    signature = infer_signature(example, DataFrame(saved.predict_columns(zeros)))
    if isinstance(example, DataFrame) and len(example.columns) <= _MAX_UNTYPED_COLUMNS:
        # With the example's types MLflow would refuse integers for floats and floats for integers.
        any_type = AnyType()  # type: ignore[no-untyped-call]
        signature.inputs = Schema([ColSpec(any_type, name) for name in example.columns])
    return signature


def _link_metrics(store: Store, run: "Run", model_id: str, step: int) -> None:
    """Copy the run's metrics of one step to the model, with their timestamps."""
    from mlflow.entities import Metric

    run_id = run.info.run_id
    metrics = [
        Metric(m.key, m.value, m.timestamp, m.step, model_id=model_id, run_id=run_id)
        for key in run.data.metrics
        for m in store.client.get_metric_history(run_id, key)
        if m.step == step and m.model_id is None
    ]
    store.client.log_batch(run_id, metrics=metrics)


def example_text(rows: NDArray[Any], schema: DataSchema) -> str:
    """Return the text of a file with raw rows, (n, D_0), from which MLflow infers the signature.

    They are as the users of a model provide them: named columns, or one column of lists.
    """
    if schema.list_column is not None:
        columns, data = [schema.list_column], [[row.tolist()] for row in rows]
    else:
        # MLflow would infer integer columns from integers, and then refuse floats.
        columns, data = list(schema.features), rows.astype("float64").tolist()
    return json.dumps({"columns": columns, "data": data})


def read_example(file: Path) -> "DataFrame":
    """Return the rows that `example_text` wrote; raise JobError if the file is damaged."""
    from pandas import DataFrame

    try:
        example = json.loads(file.read_text(encoding="utf-8"))
        return DataFrame(example["data"], columns=example["columns"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise JobError(f"{file} is damaged: {error}") from error
