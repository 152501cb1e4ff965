"""A store to deliver to, runs to deliver, and a saved model to log."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sumgrad.jobs.artifacts.saved_model import SavedModel, save_model
from sumgrad.jobs.data.schema import DataSchema
from sumgrad.jobs.tracking.delivery import Delivery
from sumgrad.jobs.tracking.metadata import (
    RECORD,
    DatasetMetadata,
    RunEnd,
    RunMetadata,
)
from sumgrad.jobs.tracking.model_logging import example_text
from sumgrad.jobs.tracking.outbox import EXAMPLE, Outbox, Receipt
from sumgrad.jobs.tracking.store import Store, open_store
from sumgrad.model import Layer, Network, make_activation, resolve_divergence
from tests.jobs.runs.records import RECORD_OF_A_RUN

FINISHED = RunEnd("FINISHED", "converged", {"sumgrad.instances_seen": "360"}, 2, False)
FAILED = RunEnd("FAILED", "cluster", {}, 0, True)
KILLED = RunEnd("KILLED", "terminated", {}, 0, True)


def make_run(directory: Path, metadata: RunMetadata) -> Path:
    key = f"key-of-{directory.name}"
    record = replace(RECORD_OF_A_RUN, run_id=directory.name, key=key, metadata=metadata)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / RECORD).write_text(record.to_json())
    return directory


@pytest.fixture
def store(uri: str) -> Store:
    return open_store(uri)


@pytest.fixture
def metadata(tmp_path: Path) -> RunMetadata:
    return RunMetadata(
        name="iris",
        experiment="flowers",
        spec={"seed": 7, "model": {"layers": [{"units": 3}]}, "note": "x" * 7000},
        spec_yaml="seed: 7\n",
        datasets=[
            DatasetMetadata("training", "iris", "/data/iris.csv", "d" * 40, 120),
            DatasetMetadata("test", "iris", "/data/iris.csv", "e" * 36, 30),
        ],
        tags={"sumgrad.seed": "7", "sumgrad.workers": "2"},
        folder=tmp_path,
    )


@pytest.fixture
def run(tmp_path: Path, metadata: RunMetadata) -> Path:
    """The directory of a run."""
    return make_run(tmp_path / "runs" / "iris-abc123", metadata)


@pytest.fixture
def outbox(run: Path) -> Outbox:
    return Outbox(run)


@pytest.fixture
def delivery(run: Path, outbox: Outbox, store: Store) -> Delivery:
    return Delivery(run, lambda: store)


@pytest.fixture
def mlflow_id(run: Path) -> Callable[[], str]:
    """Returns MLflow's id of the run."""

    def read() -> str:
        found = Receipt.read(run).mlflow_run_id
        assert found is not None
        return found

    return read


@pytest.fixture
def saved() -> SavedModel:
    output = make_activation("softmax")
    layers = (Layer(4, make_activation("tanh")), Layer(3, output))
    network = Network(3, layers, resolve_divergence("kl", output))
    schema = DataSchema(("a", "b", "c"), classes=("x", "y", "z"))
    flat = np.random.default_rng(0).normal(size=network.layout.size).astype("float32")
    return SavedModel("iris", network, network.parameters(flat), schema, {"seed": 7})


@pytest.fixture
def rows() -> pd.DataFrame:
    values = np.random.default_rng(1).normal(size=(5, 3))
    return pd.DataFrame(values, columns=["a", "b", "c"])


@pytest.fixture
def folder(run: Path, saved: SavedModel, rows: pd.DataFrame) -> Path:
    """The trained model in the run's directory, with the example rows beside it."""
    save_model(run / "model", saved)
    (run / EXAMPLE).write_text(example_text(rows.to_numpy(), saved.schema))
    return run / "model"
