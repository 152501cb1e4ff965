"""What a worker fails on is named by file and row, and what was reached is saved."""

from pathlib import Path

import numpy as np
import pytest

from sumgrad.cluster.errors import MicrobatchFailed
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import RowIndices
from sumgrad.jobs.artifacts.saved_model import load_model
from sumgrad.jobs.runs.directory import RunDirectory
from sumgrad.jobs.runs.progress import PlainReporter
from sumgrad.jobs.runs.training import train
from sumgrad.jobs.spec.loader import load_spec
from sumgrad.model.validation import Array
from tests.integration.command_line import Folder


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row whose petal is 12345 and scaled accordingly raises wherever it is computed."""
    read = ArraySource.read

    def poisoned(self: ArraySource, rows: RowIndices, out: Array | None = None) -> object:
        x, d = read(self, rows, out)
        if (x > 100).any():
            raise MemoryError("no room for these rows")
        return x, d

    monkeypatch.setattr(ArraySource, "fetch", poisoned)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("role", ["train", "test"])
def test_the_row_is_named(role: str, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert "MemoryError: no room for these rows" in str(failure)
    assert (summary.status, summary.stop_reason) == ("FAILED", "failed")
    assert summary.checkpoint is not None
    run = RunDirectory.open(Path(summary.checkpoint).parent)
    assert run.record.end is not None
    assert run.record.end.can_resume
    saved = load_model(run.model).parameters
    assert saved.sha256() == summary.weights_sha256
    assert np.isfinite(saved.flat).all()
