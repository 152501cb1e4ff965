"""Imported once by the server that forks MLflow processes: all that they need."""

import importlib

from sumgrad.jobs.tracking.store import prepare_mlflow

prepare_mlflow()
for name in (
    "alembic.config",
    "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
):
    importlib.import_module(name)
# MLflow lists the files of all installed packages when it first logs a model.
importlib.import_module("mlflow.utils.requirements_utils")._init_packages_to_modules_map()
