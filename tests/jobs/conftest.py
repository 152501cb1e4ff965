"""MLflow stores for the tests of several packages."""

import shutil
from pathlib import Path

import pytest

from sumgrad.jobs.config.tracking_uri import SQLITE
from sumgrad.jobs.tracking.store import open_store


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take seconds to create and none to copy."""
    database = tmp_path_factory.mktemp("template") / "mlflow.db"
    open_store(f"{SQLITE}{database}")
    return database


@pytest.fixture
def uri(template: Path, tmp_path: Path) -> str:
    """The URI of a new store."""
    return f"{SQLITE}{shutil.copy(template, tmp_path / 'mlflow.db')}"
