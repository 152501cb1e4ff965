"""A row that a worker fails on is named, and a signal ends the reading of rows."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sumgrad.cluster.errors import MicrobatchFailed
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import RowIndices
from sumgrad.jobs.artifacts.saved_model import load_model
from sumgrad.jobs.errors import Interrupted
from sumgrad.jobs.runs.directory import RunDirectory
from sumgrad.jobs.runs.progress import PlainReporter
from sumgrad.jobs.runs.training import train
from sumgrad.jobs.spec.loader import load_spec
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.model.validation import Array
from tests.integration.command_line import Folder


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every computation with the row whose petal is 12345 raise."""
    read = ArraySource.read

    def poisoned(self: ArraySource, rows: RowIndices, out: Array | None = None) -> object:
        x, d = read(self, rows, out)
        if (x > 100).any():
            raise MemoryError("these rows do not fit")
        return x, d

    monkeypatch.setattr(ArraySource, "read", poisoned)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("role", ["train", "test"])
def test_the_row_is_named_and_the_weights_are_saved(
    role: str, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.path)
    poisoned = folder.path / "more.csv"
    poisoned.write_text("petal,sepal,kind\n4,1,lily\n1,5,rose\n12345,1,iris\n")
    overrides = [f"data.{role}=more.csv", "data.scaling=none", "optimizer.eta=0.001"]
    if role == "train":
        overrides += ["data.test=null", "data.validation=null"]
    with (folder.path / "log").open("w") as log:
        summary, failure = train(load_spec("flowers.yaml", overrides).spec, PlainReporter(log))
    assert isinstance(failure, MicrobatchFailed)
    assert f"({poisoned}, row 3)" in str(failure)
    assert "MemoryError: these rows do not fit" in str(failure)
    assert (summary.status, summary.stop_reason) == ("FAILED", "failed")
    assert summary.model_folder is not None
    run = RunDirectory.open(Path(summary.model_folder).parent)
    assert run.record.end is not None
    assert run.record.end.can_resume
    saved = load_model(run.model).parameters
    assert saved.sha256() == summary.weights_sha256
    assert np.isfinite(saved.flat).all()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_reading_of_rows(
    number: signal.Signals, code: int, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.path)

    def read_until_stopped(_: JobSpec, check_stop: Callable[[], None]) -> None:
        os.kill(os.getpid(), number)
        while True:
            check_stop()

    monkeypatch.setattr("sumgrad.jobs.runs.training.prepare", read_until_stopped)
    with (folder.path / "log").open("w") as log, pytest.raises(Interrupted) as caught:
        train(load_spec("flowers.yaml").spec, PlainReporter(log))
    assert caught.value.exit_code == code
    assert not list((folder.path / "runs").glob("*/*"))
