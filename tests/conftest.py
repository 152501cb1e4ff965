"""Set MLflow's environment variables before any test imports it."""

from sumgrad.jobs.tracking.store import prepare_mlflow

prepare_mlflow()
