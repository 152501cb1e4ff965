"""One local Ray instance for each module that wants one, and folders for users to work in."""

import csv
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from sumgrad.cluster.ray_backend.session import ray_session
from sumgrad.jobs.tracking.store import open_store
from tests.cluster.small_job import SmallJob, make_small_job
from tests.integration.command_line import Folder
from tests.integration.fork_server import forked_mlflow_processes, running_fork_server

FLOWERS = """\
name: flowers
seed: 3
data: {train: flowers.csv, label: kind, test: 0.25, validation: 0.2}
model:
  layers:
    - {units: 6, activation: tanh}
    - {units: 3, activation: softmax}
optimizer: {eta: 0.3, batch_size: 32}
stop: {max_epochs: 8, tolerance: 0}
cluster: {address: inline, microbatch_size: 10}
"""


@pytest.fixture(scope="module")
def ray_cpus() -> Iterator[int]:
    """Start a local Ray instance with at least five CPUs on any machine, and yield 5."""
    with ray_session("local", 5):
        yield 5


@pytest.fixture(scope="session")
def fork_server() -> Iterator[None]:
    with running_fork_server():
        yield


@pytest.fixture(scope="module", autouse=True)
def forked_mlflow(fork_server: None) -> Iterator[None]:
    """Fork the MLflow process of each run that tests start in their own process."""
    with forked_mlflow_processes():
        yield


@pytest.fixture(scope="session")
def small_job() -> SmallJob:
    return make_small_job()


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an initialised MLflow store: creating its tables takes seconds, a copy does not."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    open_store(f"sqlite:///{path}")
    return path


def write_flowers(path: Path) -> None:
    """Write three kinds of flower, 60 of each, that a network can separate."""
    generator = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["petal", "sepal", "kind"])
        for kind, (petal, sepal) in {"rose": (1, 5), "lily": (4, 1), "iris": (6, 6)}.items():
            for x in generator.normal((petal, sepal), 0.6, (60, 2)).round(3):
                writer.writerow([*x, kind])


def make_folder(path: Path, database: Path) -> Folder:
    """Return a folder with data, a spec, and an initialised store."""
    shutil.copy(database, path / "mlflow.db")
    write_flowers(path / "flowers.csv")
    (path / "flowers.yaml").write_text(FLOWERS)
    return Folder(path)


@pytest.fixture
def folder(tmp_path: Path, database: Path) -> Folder:
    return make_folder(tmp_path, database)


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Folder:
    """Return a folder for tests that only read what one run left."""
    return make_folder(tmp_path_factory.mktemp("shared"), database)


@pytest.fixture
def edit(folder: Folder) -> Callable[[str, str], None]:
    """Replace a text in the spec."""

    def replace(old: str, new: str) -> None:
        path = folder.path / "flowers.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return replace
