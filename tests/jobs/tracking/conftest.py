"""Stores to track into, and a saved model to log."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sumgrad.jobs.artifacts.saved_model import SavedModel, save_model
from sumgrad.jobs.config.tracking_uri import SQLITE
from sumgrad.jobs.data.schema import DataSchema
from sumgrad.jobs.tracking import (
    DatasetMetadata,
    DirectClient,
    ProcessClient,
    RunMetadata,
    RunTracker,
    Store,
    open_store,
)
from sumgrad.jobs.tracking.client import TrackingClient
from sumgrad.jobs.tracking.example import example_text
from sumgrad.model import Layer, Network, make_activation, resolve_divergence


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised database: creating its tables takes seconds, copying them does not."""
    database = tmp_path_factory.mktemp("template") / "mlflow.db"
    open_store(f"{SQLITE}{database}")
    return database


@pytest.fixture
def uri(template: Path, tmp_path: Path) -> str:
    return f"{SQLITE}{shutil.copy(template, tmp_path / 'mlflow.db')}"


@pytest.fixture
def store(uri: str) -> Store:
    return open_store(uri)


@pytest.fixture
def direct(store: Store) -> DirectClient:
    return DirectClient(lambda: store)


@pytest.fixture(params=["direct", "process"])
def client(request: pytest.FixtureRequest, direct: DirectClient) -> Iterator[TrackingClient]:
    """Each kind of client, of the same store."""
    if request.param == "direct":
        yield direct
    else:
        with ProcessClient(direct.open().uri) as asking:
            yield asking


@pytest.fixture
def facts(tmp_path: Path) -> RunMetadata:
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
def said() -> list[str]:
    """The lines that a tracker warned with."""
    return []


class Tracker(RunTracker):
    """One whose store has answered."""

    @property
    def run_id(self) -> str:
        return self._link.linked().run_id

    @property
    def experiment_id(self) -> str:
        """Of the run's experiment."""
        return self._link.linked().experiment_id


@pytest.fixture
def start(direct: DirectClient, facts: RunMetadata, said: list[str]) -> Callable[[], Tracker]:
    """Starts a run whose calls to MLflow a test can replace."""
    return lambda: Tracker.start(direct, facts, said.append)


@pytest.fixture
def start_either(
    client: TrackingClient, facts: RunMetadata, said: list[str]
) -> Callable[[], Tracker]:
    """Starts a run with each kind of client."""
    return lambda: Tracker.start(client, facts, said.append)


@pytest.fixture
def saved() -> SavedModel:
    output = make_activation("softmax")
    layers = (Layer(4, make_activation("tanh")), Layer(3, output))
    network = Network(3, layers, resolve_divergence("kl", output))
    schema = DataSchema(("a", "b", "c"), classes=("x", "y", "z"))
    flat = np.random.default_rng(0).normal(size=network.layout.size).astype("float32")
    return SavedModel("iris", network, network.parameters(flat), schema, {"seed": 7})


@pytest.fixture
def folder(saved: SavedModel, tmp_path: Path) -> Path:
    save_model(tmp_path / "saved", saved)
    return tmp_path / "saved"


@pytest.fixture
def rows() -> pd.DataFrame:
    values = np.random.default_rng(1).normal(size=(5, 3))
    return pd.DataFrame(values, columns=["a", "b", "c"])


@pytest.fixture
def example(rows: pd.DataFrame, saved: SavedModel, tmp_path: Path) -> Path:
    """The rows as a run's folder has them."""
    path = tmp_path / "example.json"
    path.write_text(example_text(rows.to_numpy(), saved.schema))
    return path
