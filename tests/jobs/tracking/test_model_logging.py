import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sumgrad.jobs.artifacts.code_copy import closure
from sumgrad.jobs.artifacts.saved_model import SavedModel, load_model, save_model
from sumgrad.jobs.errors import ModelNotFound
from sumgrad.jobs.tracking import Store, find_model
from sumgrad.jobs.tracking.example import example_text
from sumgrad.jobs.tracking.model_logging import log_model
from tests.jobs.tracking.conftest import Tracker


def expected(saved: SavedModel, rows: pd.DataFrame) -> pd.DataFrame:
    """The predictions without MLflow in between."""
    x = saved.schema.scaling.apply(rows[["a", "b", "c"]].to_numpy(), "float32")
    return pd.DataFrame(saved.predict_columns(x), index=rows.index)


@pytest.fixture
def logged(
    start: Callable[[], Tracker], folder: Path, example: Path, said: list[str]
) -> tuple[str, str]:
    """The ids of a finished run and of its model."""
    tracker = start()
    tracker.log_epoch(1, {"train_loss": 0.5})
    tracker.log_epoch(2, {"train_loss": 0.25})
    model_id = tracker.log_model(folder, example, step=2)
    tracker.finish("FINISHED")
    assert said == []
    assert model_id is not None
    return tracker.run_id, model_id


def test_both_addresses_load_it_and_predict_the_same(
    store: Store,
    logged: tuple[str, str],
    saved: SavedModel,
    rows: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import mlflow

    run_id, model_id = logged
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    shuffled = rows[["c", "a", "b"]].assign(extra="ignored").sample(5, random_state=0)
    for address in (f"runs:/{run_id}/model", f"models:/{model_id}"):
        got = mlflow.pyfunc.load_model(address).predict(shuffled)
        pd.testing.assert_frame_equal(got, expected(saved, shuffled))


def test_the_store_links_model_run_and_metrics(store: Store, logged: tuple[str, str]) -> None:
    run_id, model_id = logged
    model = store.client.get_logged_model(model_id)
    assert (model.name, model.source_run_id, str(model.status)) == ("model", run_id, "READY")
    assert {(m.key, m.value, m.step) for m in model.metrics or []} == {("train_loss", 0.25, 2)}
    outputs = store.client.get_run(run_id).outputs
    assert outputs is not None
    assert [(o.model_id, o.step) for o in outputs.model_outputs] == [(model_id, 2)]
    # Linking must not have doubled the run's own curve.
    assert len(store.client.get_metric_history(run_id, "train_loss")) == 2


def test_the_signature_names_what_goes_in_and_out(store: Store, logged: tuple[str, str]) -> None:
    import mlflow

    folder = find_model(logged[0], store.uri).parents[1]
    signature = mlflow.models.Model.load(folder).signature
    assert signature is not None
    assert signature.inputs.input_names() == ["a", "b", "c"]
    assert signature.outputs.input_names() == [
        "prediction",
        "probability_x",
        "probability_y",
        "probability_z",
    ]


LOAD = """
import sys
import model, jobs
before = model, jobs
import mlflow, pandas
loaded = mlflow.pyfunc.load_model(sys.argv[1])
rows = pandas.read_json(sys.argv[2])
loaded.predict(rows).to_json(sys.argv[3])
import model, jobs
assert (model, jobs) == before and model.mine and jobs.mine
assert not [name for name in sys.modules if name.startswith(("model.", "jobs."))]
"""


def test_it_loads_where_sumgrad_is_not_and_other_modules_have_its_names(
    store: Store,
    logged: tuple[str, str],
    saved: SavedModel,
    rows: pd.DataFrame,
    tmp_path: Path,
) -> None:
    user = tmp_path / "user"
    (user / "jobs").mkdir(parents=True)
    (user / "model.py").write_text("mine = True\n")
    (user / "jobs" / "__init__.py").write_text("mine = True\n")
    rows.to_json(tmp_path / "rows.json", double_precision=15)
    location = store.client.get_logged_model(logged[1]).artifact_location
    done = subprocess.run(
        [sys.executable, "-c", LOAD, location, tmp_path / "rows.json", tmp_path / "out.json"],
        env={**os.environ, "PYTHONPATH": str(user), "MLFLOW_DISABLE_TELEMETRY": "true"},
        cwd=user,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    got = pd.read_json(tmp_path / "out.json")
    assert list(got["prediction"]) == list(expected(saved, rows)["prediction"])


def test_a_missing_column_is_named(store: Store, logged: tuple[str, str]) -> None:
    import mlflow

    loaded = mlflow.pyfunc.load_model(store.client.get_logged_model(logged[1]).artifact_location)
    with pytest.raises(mlflow.MlflowException, match=r"missing inputs \['c'\]"):
        loaded.predict(pd.DataFrame({"a": [1.0], "b": [2.0]}))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, r"column 'b', row 2: nan is not a finite number"),
        (np.inf, r"column 'b', row 2: inf is not a finite number"),
        ("tall", "a feature is not a number"),
    ],
)
def test_values_that_are_no_numbers_are_refused(
    store: Store, logged: tuple[str, str], rows: pd.DataFrame, value: float | str | None, words: str
) -> None:
    import mlflow

    location = store.client.get_logged_model(logged[1]).artifact_location
    model = mlflow.pyfunc.load_model(location)
    bad = rows.astype(object)
    bad.loc[1, "b"] = value
    with pytest.raises(ValueError, match=words):
        model.predict(bad)


def test_whole_numbers_are_taken_for_the_numbers_that_they_are(
    store: Store, logged: tuple[str, str], rows: pd.DataFrame
) -> None:
    import mlflow

    location = store.client.get_logged_model(logged[1]).artifact_location
    model = mlflow.pyfunc.load_model(location)
    whole = rows.round()
    pd.testing.assert_frame_equal(model.predict(whole.astype("int64")), model.predict(whole))


def test_arrays_go_in_as_arrays(
    store: Store,
    start: Callable[[], Tracker],
    folder: Path,
    saved: SavedModel,
    rows: pd.DataFrame,
) -> None:
    import mlflow

    tracker = start()
    model_id = log_model(store, tracker.run_id, folder, rows.to_numpy(), step=1)
    tracker.finish("FINISHED")
    loaded = mlflow.pyfunc.load_model(store.client.get_logged_model(model_id).artifact_location)
    got = loaded.predict(rows.to_numpy())
    pd.testing.assert_frame_equal(got, expected(saved, rows))


def test_a_list_column_goes_in_as_lists_or_arrays(
    store: Store,
    start: Callable[[], Tracker],
    saved: SavedModel,
    rows: pd.DataFrame,
    tmp_path: Path,
) -> None:
    import mlflow

    listed = replace(saved, schema=replace(saved.schema, list_column="flower"))
    save_model(tmp_path / "listed", listed)
    frame = pd.DataFrame({"flower": [row.tolist() for row in rows.to_numpy()]})
    listing = tmp_path / "listing.json"
    listing.write_text(example_text(rows.to_numpy(), listed.schema))
    tracker = start()
    model_id = tracker.log_model(tmp_path / "listed", listing, step=1)
    tracker.finish("FINISHED")
    assert model_id is not None
    loaded = mlflow.pyfunc.load_model(store.client.get_logged_model(model_id).artifact_location)
    pd.testing.assert_frame_equal(loaded.predict(frame), expected(saved, rows))
    arrays = pd.DataFrame({"flower": list(rows.to_numpy())})
    pd.testing.assert_frame_equal(loaded.predict(arrays), expected(saved, rows))
    whole = pd.DataFrame({"flower": [[1, 2, 3]]})
    assert loaded.predict(whole)["prediction"].notna().all()
    with pytest.raises(ValueError, match="rows have 2 features, the model takes 3"):
        loaded.predict(pd.DataFrame({"flower": [[1, 2]]}))


def test_whole_number_columns_make_no_noise(
    store: Store,
    start: Callable[[], Tracker],
    folder: Path,
    rows: pd.DataFrame,
    said: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    tracker = start()
    log_model(store, tracker.run_id, folder, (rows * 10).round().astype("int64"), step=1)
    tracker.finish("FINISHED")
    assert capfd.readouterr() == ("", "")
    assert said == []


def test_a_model_that_cannot_be_logged_warns_and_fails_nothing(
    store: Store,
    start_either: Callable[[], Tracker],
    tmp_path: Path,
    example: Path,
    said: list[str],
) -> None:
    tracker = start_either()
    assert tracker.log_model(tmp_path / "nothing", example, step=1) is None
    tracker.finish("FAILED")
    assert len(said) == 1
    assert "could not be logged" in said[0]
    models = store.client.search_logged_models([tracker.experiment_id])
    assert [str(model.status) for model in models] == ["FAILED"]


def test_it_is_found_by_its_run(store: Store, logged: tuple[str, str], saved: SavedModel) -> None:
    run_id, _ = logged
    for name in (run_id, run_id[:8]):
        found = load_model(find_model(name, store.uri))
        assert found.parameters.sha256() == saved.parameters.sha256()


@pytest.mark.parametrize(
    ("run_id", "words"),
    [("0123456789", "no run"), ("abc", "is no run id"), ("a' OR 'a", "is no run id")],
)
def test_an_unknown_run_is_told(store: Store, run_id: str, words: str) -> None:
    with pytest.raises(ModelNotFound, match=words):
        find_model(run_id, store.uri)


def test_a_run_without_a_model_is_told(store: Store, start: Callable[[], Tracker]) -> None:
    tracker = start()
    tracker.finish("FAILED")
    with pytest.raises(ModelNotFound, match="has no model"):
        find_model(tracker.run_id, store.uri)


def test_only_what_prediction_needs_is_copied() -> None:
    modules = closure("sumgrad.jobs.artifacts.saved_model")
    assert {
        "sumgrad.jobs.artifacts.saved_model",
        "sumgrad.jobs.data.schema",
        "model.network",
    } <= modules.keys()
    text = "\n".join(path.read_text("utf-8") for path in modules.values())
    for heavy in ("ray", "mlflow", "pyarrow", "pydantic", "pandas"):
        assert f"import {heavy}" not in text
        assert f"from {heavy}" not in text
