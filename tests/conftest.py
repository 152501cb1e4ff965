"""MLflow reads its settings when it is imported, so they stand before any test imports it."""

from sumgrad.jobs.tracking.store import prepare_mlflow

prepare_mlflow()
