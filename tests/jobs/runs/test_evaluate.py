"""Models are found in the folder of runs before MLflow is asked; rejected rows are counted."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sumgrad.jobs.errors import RunAmbiguous
from sumgrad.jobs.runs import evaluate
from sumgrad.jobs.runs.directory import RunDirectory
from sumgrad.jobs.runs.evaluate import Rejection, open_model
from tests.jobs.runs.records import RECORD_OF_A_RUN
from tests.jobs.service.environment import isolate_user


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Returns the folder that a model is loaded from; MLflow's is named mlflow-ID."""
    isolate_user(tmp_path, monkeypatch)
    monkeypatch.setattr(evaluate, "find_model", lambda name, uri: Path(f"mlflow-{name}"))
    monkeypatch.setattr(evaluate, "load_model", str)
    return lambda name: str(open_model(name, "sqlite:///mlflow.db"))


def make_run(run_id: str) -> RunDirectory:
    return RunDirectory.create(Path("runs", run_id), replace(RECORD_OF_A_RUN, run_id=run_id))


def test_a_model_is_found_in_the_folder_of_runs_before_mlflow(
    opened: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(RECORD_OF_A_RUN.run_id)
    assert opened("job-abc") == "mlflow-job-abc", "the run has no model yet"
    run.model.mkdir()
    for name in ("job-abc123", "job-abc"):
        assert opened(name) == str(run.model)
    assert opened("runs/job-abc123") == "runs/job-abc123/model"
    assert opened("other") == "mlflow-other"
    monkeypatch.setenv("SUMGRAD_OUTPUT", "~unknown-user/runs")
    assert opened("job-abc") == "mlflow-job-abc"


def test_a_prefix_of_several_runs_names_no_model(opened: Callable[[str], str]) -> None:
    for run_id in ("job-abc123", "job-abc456"):
        make_run(run_id).model.mkdir()
    with pytest.raises(RunAmbiguous, match="several runs in runs start with job"):
        opened("job")


def test_rejected_fractions_are_reported_by_kind() -> None:
    rejection = Rejection(0.01, {"noise": 0.98, "seams": 0.5}, ("seams",))
    assert rejection.lines() == [
        "rejects   1.0% of the data set's images",
        "          98.0% of 'noise' images",
        "          50.0% of 'seams' images (a kind not seen in training)",
    ]
    assert rejection.metrics() == {
        "test_rejected_in_distribution": 0.01,
        "test_rejected_noise": 0.98,
        "test_rejected_seams": 0.5,
    }
