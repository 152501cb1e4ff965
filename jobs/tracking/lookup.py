"""From a run's id, or the beginning of one, to its saved model."""

import atexit
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sumgrad.jobs.errors import ModelNotFound
from sumgrad.jobs.support.redaction import redact
from sumgrad.jobs.tracking.model_logging import ARTIFACT, MODEL_NAME
from sumgrad.jobs.tracking.store import Store, first_line, open_store

if TYPE_CHECKING:
    from mlflow.entities import Run

#: Shorter beginnings of run ids are not looked for.
SHORTEST_PREFIX = 6


def find_model(run_id: str, uri: str) -> Path:
    """The saved-model folder of a run, on this machine.

    Args:
        run_id: A run's id, or at least six characters that only its id begins with.
        uri: A resolved tracking URI.

    Returns:
        The store's own folder where it is on this machine, and otherwise a download that is
        removed when this process ends.

    Raises:
        ModelNotFound: No such run, several, or one without a model.
        TrackingError: The store cannot be used.
    """
    store = open_store(uri)
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    run = find_run(run_id, store)
    location = _model_location(run, store)
    # Local files are not copied, so the download folder may stay empty.
    try:
        found = download_artifacts(
            artifact_uri=f"{location}/artifacts/{ARTIFACT}",
            dst_path=None if location.startswith("file:") else _temporary_folder(),
            tracking_uri=store.address,
        )
    except (MlflowException, OSError) as error:
        raise ModelNotFound(
            f"the model of run {run.info.run_id} cannot be read from {redact(location)}: "
            f"{first_line(error)}"
        ) from error
    return Path(found)


def find_run(run_id: str, store: Store) -> "Run":
    """The run with this id, or the only one whose id begins so.

    Raises:
        ModelNotFound: None, or several.
    """
    where = redact(store.uri)
    if not re.fullmatch(rf"[0-9a-zA-Z_-]{{{SHORTEST_PREFIX},}}", run_id):
        raise ModelNotFound(
            f"'{run_id}' is no run id",
            hint=f"an id, or the first {SHORTEST_PREFIX} or more characters of one",
        )
    experiments = [e.experiment_id for e in store.client.search_experiments()]
    # An underscore stands for any character in LIKE; a run's id has none.
    runs = store.client.search_runs(
        experiments, filter_string=f"attributes.run_id LIKE '{run_id}%'", max_results=2
    )
    if not runs:
        raise ModelNotFound(f"no run {run_id} at {where}")
    if len(runs) > 1:
        raise ModelNotFound(f"several runs at {where} begin with {run_id}", hint="give more of it")
    return runs[0]


def _model_location(run: "Run", store: Store) -> str:
    outputs = run.outputs.model_outputs if run.outputs is not None else []
    # The last one: a resumed run logs its model again.
    for output in reversed(outputs):
        model = store.client.get_logged_model(output.model_id)
        if model.name == MODEL_NAME:
            return str(model.artifact_location)
    raise ModelNotFound(
        f"run {run.info.run_id} has no model",
        hint=f"its status is {run.info.status}; a model is logged when training ends",
    )


def _temporary_folder() -> str:
    folder = tempfile.mkdtemp(prefix="sumgrad-model-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
