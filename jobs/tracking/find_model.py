"""Finding the model of a run in an MLflow store."""

import atexit
import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from sumgrad.cluster.temporary import temporary_directory
from sumgrad.jobs.errors import ModelNotFound
from sumgrad.jobs.support.redaction import redact
from sumgrad.jobs.support.text import describe_error
from sumgrad.jobs.tracking.model_logging import ARTIFACT, MODEL_NAME
from sumgrad.jobs.tracking.store import Store, open_store

if TYPE_CHECKING:
    from mlflow.entities import Run

#: Enough to find two that really match among those that an underscore in LIKE matches.
_MAX_MATCHES = 20


def find_model(run_id: str, uri: str) -> Path:
    """Return the saved-model folder of a run in the store at a resolved URI.

    It is the store's own folder if that is on this machine; otherwise a download that is removed
    when this process ends.

    Args:
        run_id: A run's id, MLflow's id of it, or a unique prefix of one of these.
        uri: The store.

    Raises:
        ModelNotFound: No run or several match, or the run has no model.
        TrackingError: The store cannot be used.
    """
    store = open_store(uri)
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    run = _find_run(run_id, store)
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
        raise ModelNotFound(
            f"the model of run {run.info.run_id} cannot be read from {redact(location)}: "
            f"{describe_error(error)}"
        ) from error


def _find_run(run_id: str, store: Store) -> "Run":
    """Return the only run whose name or id in MLflow is or starts with a text."""
    where = redact(store.uri)
    # Other characters have a meaning in MLflow's queries.
    if not re.fullmatch(r"[0-9a-zA-Z][0-9a-zA-Z._-]*", run_id):
        raise ModelNotFound(f"'{run_id}' is no run id", hint="give a run id or a prefix of one")
    experiments = [e.experiment_id for e in store.client.search_experiments()]
    for pattern in (f"= '{run_id}'", f"LIKE '{run_id}%'"):
        found = {
            run.info.run_id: run
            for name in ("run_name", "run_id")
            for run in store.client.search_runs(
                experiments, f"attributes.{name} {pattern}", max_results=_MAX_MATCHES
            )
            # In LIKE an underscore stands for any character.
            if str(getattr(run.info, name)).startswith(run_id)
        }
        if len(found) > 1:
            hint = "give more characters of the id"
            raise ModelNotFound(f"several runs at {where} match {run_id}", hint=hint)
        if found:
            return found.popitem()[1]
    raise ModelNotFound(f"no run {run_id} at {where}")


def _model_location(run: "Run", store: Store) -> str:
    outputs = run.outputs.model_outputs if run.outputs is not None else []
    # A resumed run logs its model again; the last one counts.
    for output in reversed(outputs):
        model = store.client.get_logged_model(output.model_id)
        if model.name == MODEL_NAME:
            return str(model.artifact_location)
    raise ModelNotFound(
        f"run {run.info.run_id} has no model",
        hint=f"its status is {run.info.status}; a model is logged when training ends",
    )
