"""Find a model by its folder or by the run that trained it."""

from pathlib import Path

from sumgrad.jobs.artifacts.saved_model import DESCRIPTION, SavedModel, load_model
from sumgrad.jobs.config.tracking_uri import resolve_tracking_uri
from sumgrad.jobs.runs.directory import RECORD
from sumgrad.jobs.tracking.find_model import find_model
from sumgrad.jobs.tracking.outbox import MODEL


def open_model(name: str, tracking_uri: str) -> SavedModel:
    """Load a model.

    Args:
        name: A saved model's folder, a run's folder, or a run id or the beginning of one.
        tracking_uri: The MLflow store that has the run.

    Raises:
        ModelNotFound: No model has that name, or it is damaged.
        TrackingError: The store cannot be used.
    """
    folder = Path(name)
    if (folder / RECORD).is_file():
        folder = folder / MODEL
    elif not (folder / DESCRIPTION).is_file() and not folder.is_dir():
        folder = find_model(name, resolve_tracking_uri(tracking_uri, Path.cwd()))
    return load_model(folder)
