"""What all tests share: MLflow's environment variables, and what the fork server imports."""

import logging
import multiprocessing as mp

import pytest

from sumgrad.jobs.tracking.store import prepare_mlflow

# Before any test imports MLflow.
prepare_mlflow()


def pytest_collection_finish() -> None:
    """Have the fork server import modules once, so that processes start within milliseconds."""
    modules = ["tests.cluster.processes", "tests.cluster.sources"]
    mp.get_context("forkserver").set_forkserver_preload(modules)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The messages of sumgrad, those about progress included."""
    caplog.set_level(logging.INFO, "sumgrad")
    return caplog
