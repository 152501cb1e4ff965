"""Logging a run's model to MLflow as a self-contained pyfunc model, and finding it there.

`mlflow.pyfunc.log_model` uses MLflow's global tracking URI and experiment. This module takes the
same steps with a client that is bound to one store.
"""

import atexit
import json
import re
import shutil
import tempfile
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sumgrad.cluster.temporary import temporary_directory
from sumgrad.jobs.artifacts.code_copy import copy_code, no_write_by_others
from sumgrad.jobs.artifacts.saved_model import load_model
from sumgrad.jobs.data.schema import DataSchema
from sumgrad.jobs.errors import JobError, ModelNotFound
from sumgrad.jobs.support.redaction import redact
from sumgrad.jobs.support.text import describe_error
from sumgrad.jobs.tracking.store import Store, open_store

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.models import ModelSignature
    from pandas import DataFrame

MODEL_NAME = "model"  #: The model's name in its run: ``runs:/<run>/model``.
ARTIFACT = "saved_model"  #: The saved-model folder among the MLflow model's artifacts.
#: The maximum number of columns whose signature accepts any number type. MLflow needs a microsecond
#: per value to check these, so wider rows, such as images, have the example's types.
_MAX_UNTYPED_COLUMNS = 100
#: Enough to find two that really match among those that an underscore in LIKE matches.
_MAX_MATCHES = 20
_REQUIREMENTS = ("mlflow", "numpy", "pandas", "safetensors")


def log_model(store: Store, mlflow_run_id: str, folder: Path, example: Any, step: int) -> str:
    """Log a saved-model folder as the model of a run in MLflow, and return the model's id there.

    The example is a few raw rows: a DataFrame of the feature columns, or an array (N, D_0). They
    become the input example, and their types the signature. The step is the epoch of the weights,
    whose metrics become those of the model.
    """
    from mlflow.entities import LoggedModelOutput

    client = store.client
    run = client.get_run(mlflow_run_id)
    model = client.create_logged_model(
        run.info.experiment_id,
        name=MODEL_NAME,
        source_run_id=mlflow_run_id,
        params=run.data.params,
        model_type="sumgrad",
    )
    try:
        with tempfile.TemporaryDirectory() as temporary, no_write_by_others():
            built = Path(temporary, "built")
            _build(built, folder, example, mlflow_run_id, model.model_id, model.artifact_location)
            client.log_model_artifacts(model.model_id, str(built))
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(mlflow_run_id, [LoggedModelOutput(model.model_id, step)])
    _link_metrics(store, run, model.model_id, step)
    return str(model.model_id)


def _build(
    built: Path, folder: Path, example: Any, mlflow_run_id: str, model_id: str, location: str
) -> None:
    """Write the MLflow model's folder."""
    import mlflow.pyfunc
    from mlflow.models import Model

    parts = built.with_name("parts")
    parts.mkdir()
    entry, package = copy_code(parts)
    # MLflow stores an artifact under the name of its folder, which `find_model` expects.
    artifact = shutil.copytree(folder, parts / ARTIFACT)
    model = Model(
        artifact_path=location, run_id=mlflow_run_id, model_uuid=model_id, model_id=model_id
    )
    mlflow.pyfunc.save_model(
        path=str(built),
        python_model=str(entry),
        artifacts={ARTIFACT: str(artifact)},
        code_paths=[str(package)],
        # Without these MLflow would load the model in a new process to infer them.
        pip_requirements=[f"{name}=={metadata.version(name)}" for name in _REQUIREMENTS],
        signature=_signature(folder, example),
        input_example=example,
        mlflow_model=model,
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

    mlflow_run_id = run.info.run_id
    metrics = [
        Metric(m.key, m.value, m.timestamp, m.step, model_id=model_id, run_id=mlflow_run_id)
        for key in run.data.metrics
        for m in store.client.get_metric_history(mlflow_run_id, key)
        if m.step == step and m.model_id is None
    ]
    store.client.log_batch(mlflow_run_id, metrics=metrics)


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


def find_model(name: str, uri: str) -> Path:
    """Return the saved-model folder of a run in the store at a resolved URI.

    It is the store's own folder if that is on this machine; otherwise a download that is removed
    when this process ends. `name` is the run's id, MLflow's id, or a unique prefix of one.

    Raises:
        ModelNotFound: No run or several match, or the run has no model.
        TrackingError: The store cannot be used.
    """
    store = open_store(uri)
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    run = _find_run(name, store)
    location = _model_location(run, store)
    folder = None
    if not location.startswith("file:"):
        stack = ExitStack()
        atexit.register(stack.close)
        folder = str(stack.enter_context(temporary_directory("model-")))
    artifact_uri = f"{location}/artifacts/{ARTIFACT}"
    try:
        return Path(download_artifacts(artifact_uri, dst_path=folder, tracking_uri=store.address))
    except (MlflowException, OSError) as error:
        problem = f"the model of run {run.info.run_id} cannot be read from {redact(location)}"
        raise ModelNotFound(f"{problem}: {describe_error(error)}") from error


def _find_run(name: str, store: Store) -> "Run":
    """Return the only run whose name or id in MLflow is or starts with a string."""
    where = redact(store.uri)
    # Other characters have a meaning in MLflow's queries.
    if not re.fullmatch(r"[0-9a-zA-Z][0-9a-zA-Z._-]*", name):
        raise ModelNotFound(f"'{name}' is no run id", hint="give a run id or a prefix of one")
    experiments = [e.experiment_id for e in store.client.search_experiments()]
    for pattern in (f"= '{name}'", f"LIKE '{name}%'"):
        found = {
            run.info.run_id: run
            for field in ("run_name", "run_id")
            for run in store.client.search_runs(
                experiments, f"attributes.{field} {pattern}", max_results=_MAX_MATCHES
            )
            # In LIKE an underscore stands for any character.
            if str(getattr(run.info, field)).startswith(name)
        }
        if len(found) > 1:
            hint = "give more characters of the id"
            raise ModelNotFound(f"several runs at {where} match {name}", hint=hint)
        if found:
            return found.popitem()[1]
    raise ModelNotFound(f"no run {name} at {where}")


def _model_location(run: "Run", store: Store) -> str:
    outputs = run.outputs.model_outputs if run.outputs is not None else []
    model_ids = {output.model_id for output in outputs}
    # A resumed run logs its model again; the newest one counts.
    for model in store.client.search_logged_models(
        [run.info.experiment_id],
        f"source_run_id = '{run.info.run_id}' AND name = '{MODEL_NAME}'",
        order_by=[{"field_name": "creation_timestamp", "ascending": False}],
    ):
        if model.model_id in model_ids:
            return str(model.artifact_location)
    hint = f"its status is {run.info.status}; a model is logged when training ends"
    raise ModelNotFound(f"run {run.info.run_id} has no model", hint=hint)
