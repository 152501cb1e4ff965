"""Set MLflow's environment variables before any test imports it; fixtures of all tests."""

import logging

import pytest

from sumgrad.jobs.tracking.store import prepare_mlflow

prepare_mlflow()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The messages of sumgrad, those about progress included."""
    caplog.set_level(logging.INFO, "sumgrad")
    return caplog
