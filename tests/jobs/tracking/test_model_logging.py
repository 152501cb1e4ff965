import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sumgrad.jobs.artifacts.code_copy import REQUIRED
from sumgrad.jobs.artifacts.saved_model import SavedModel, load_model, save_model
from sumgrad.jobs.errors import ModelNotFound
from sumgrad.jobs.support.source_digest import source_files
from sumgrad.jobs.tracking.delivery import Delivery, deliver
from sumgrad.jobs.tracking.metadata import RunMetadata
from sumgrad.jobs.tracking.model_logging import example_text, find_model, log_model, read_example
from sumgrad.jobs.tracking.outbox import Outbox, Receipt
from sumgrad.jobs.tracking.store import Store
from tests.jobs.tracking.conftest import FINISHED, make_run


def expected(saved: SavedModel, rows: pd.DataFrame) -> pd.DataFrame:
    """The predictions without MLflow in between."""
    x = saved.schema.scaling.apply(rows[["a", "b", "c"]].to_numpy(), "float32")
    return pd.DataFrame(saved.predict_columns(x), index=rows.index)


@pytest.fixture
def logged(
    store: Store, run: Path, outbox: Outbox, folder: Path, mlflow_id: Callable[[], str]
) -> tuple[str, str]:
    """MLflow's ids of a finished run and of its model."""
    outbox.log(1, {"train_loss": 0.5})
    outbox.log(2, {"train_loss": 0.25})
    assert deliver(run, FINISHED, lambda: store)
    return mlflow_id(), str(Receipt.read(run).model_id)


@pytest.fixture
def registered(delivery: Delivery, mlflow_id: Callable[[], str]) -> str:
    """MLflow's id of a run without a model."""
    delivery.register()
    return mlflow_id()


def test_run_and_model_uris_load_the_model(
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


def test_model_run_and_metrics_are_linked(store: Store, logged: tuple[str, str]) -> None:
    run_id, model_id = logged
    model = store.client.get_logged_model(model_id)
    assert (model.name, model.source_run_id, str(model.status)) == ("model", run_id, "READY")
    assert {(m.key, m.value, m.step) for m in model.metrics or []} == {("train_loss", 0.25, 2)}
    outputs = store.client.get_run(run_id).outputs
    assert outputs is not None
    assert [(o.model_id, o.step) for o in outputs.model_outputs] == [(model_id, 2)]
    # Linking must not have doubled the run's own curve.
    assert len(store.client.get_metric_history(run_id, "train_loss")) == 2


def test_the_signature_names_inputs_and_outputs(store: Store, logged: tuple[str, str]) -> None:
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
import sumgrad
import mlflow, pandas
loaded = mlflow.pyfunc.load_model(sys.argv[1])
rows = pandas.read_json(sys.argv[2])
loaded.predict(rows).to_json(sys.argv[3])
import sumgrad
assert sumgrad.mine
assert not [name for name in sys.modules if name.startswith("sumgrad.")]
"""


def test_it_loads_where_another_module_is_called_sumgrad(
    store: Store,
    logged: tuple[str, str],
    saved: SavedModel,
    rows: pd.DataFrame,
    tmp_path: Path,
) -> None:
    user = tmp_path / "user"
    user.mkdir()
    (user / "sumgrad.py").write_text("mine = True\n")
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
def test_values_that_are_not_finite_numbers_are_refused(
    store: Store, logged: tuple[str, str], rows: pd.DataFrame, value: float | str | None, words: str
) -> None:
    import mlflow

    location = store.client.get_logged_model(logged[1]).artifact_location
    model = mlflow.pyfunc.load_model(location)
    bad = rows.astype(object)
    bad.loc[1, "b"] = value
    with pytest.raises(ValueError, match=words):
        model.predict(bad)


def test_integers_are_accepted_for_floats(
    store: Store, logged: tuple[str, str], rows: pd.DataFrame
) -> None:
    import mlflow

    location = store.client.get_logged_model(logged[1]).artifact_location
    model = mlflow.pyfunc.load_model(location)
    whole = rows.round()
    pd.testing.assert_frame_equal(model.predict(whole.astype("int64")), model.predict(whole))


def test_arrays_go_in_as_arrays(
    store: Store, registered: str, folder: Path, saved: SavedModel, rows: pd.DataFrame
) -> None:
    import mlflow

    model_id = log_model(store, registered, folder, rows.to_numpy(), step=1)
    loaded = mlflow.pyfunc.load_model(store.client.get_logged_model(model_id).artifact_location)
    got = loaded.predict(rows.to_numpy())
    pd.testing.assert_frame_equal(got, expected(saved, rows))


def test_a_list_column_accepts_lists_and_arrays(
    store: Store, registered: str, saved: SavedModel, rows: pd.DataFrame, tmp_path: Path
) -> None:
    import mlflow

    listed = replace(saved, schema=replace(saved.schema, list_column="flower"))
    save_model(tmp_path / "listed", listed)
    frame = pd.DataFrame({"flower": [row.tolist() for row in rows.to_numpy()]})
    listing = tmp_path / "listing.json"
    listing.write_text(example_text(rows.to_numpy(), listed.schema))
    model_id = log_model(store, registered, tmp_path / "listed", read_example(listing), step=1)
    loaded = mlflow.pyfunc.load_model(store.client.get_logged_model(model_id).artifact_location)
    pd.testing.assert_frame_equal(loaded.predict(frame), expected(saved, rows))
    arrays = pd.DataFrame({"flower": list(rows.to_numpy())})
    pd.testing.assert_frame_equal(loaded.predict(arrays), expected(saved, rows))
    whole = pd.DataFrame({"flower": [[1, 2, 3]]})
    assert loaded.predict(whole)["prediction"].notna().all()
    with pytest.raises(ValueError, match="rows have 2 features, the model takes 3"):
        loaded.predict(pd.DataFrame({"flower": [[1, 2]]}))


def test_integer_columns_print_nothing(
    store: Store,
    registered: str,
    folder: Path,
    rows: pd.DataFrame,
    capfd: pytest.CaptureFixture[str],
) -> None:
    log_model(store, registered, folder, (rows * 10).round().astype("int64"), step=1)
    assert capfd.readouterr() == ("", "")


def test_a_model_that_cannot_be_logged_is_marked_as_failed(
    store: Store, registered: str, tmp_path: Path, rows: pd.DataFrame
) -> None:
    with pytest.raises(FileNotFoundError):
        log_model(store, registered, tmp_path / "nothing", rows, step=1)
    experiment = store.client.get_run(registered).info.experiment_id
    models = store.client.search_logged_models([experiment])
    assert [str(model.status) for model in models] == ["FAILED"]


def test_a_model_is_found_by_the_run_id_mlflows_id_and_prefixes(
    store: Store, logged: tuple[str, str], saved: SavedModel
) -> None:
    mlflow_id, _ = logged
    for name in ("iris-abc123", "iris-a", mlflow_id, mlflow_id[:8]):
        found = load_model(find_model(name, store.uri))
        assert found.parameters.sha256() == saved.parameters.sha256()


def test_an_exact_run_id_wins_over_longer_ones(
    store: Store, logged: tuple[str, str], run: Path, metadata: RunMetadata
) -> None:
    longer = make_run(run.with_name(f"{run.name}4"), metadata)
    Delivery(longer, lambda: store).register()
    find_model(run.name, store.uri)
    with pytest.raises(ModelNotFound, match="several runs"):
        find_model("iris-abc", store.uri)


@pytest.mark.parametrize(
    ("run_id", "message"),
    [("0123456789", "no run"), ("iris_abc", "no run"), ("a' OR 'a", "is no run id")],
)
def test_an_unknown_run_is_refused(
    store: Store, logged: tuple[str, str], run_id: str, message: str
) -> None:
    with pytest.raises(ModelNotFound, match=message):
        find_model(run_id, store.uri)


def test_a_run_without_a_model_is_refused(store: Store, registered: str) -> None:
    with pytest.raises(ModelNotFound, match="has no model"):
        find_model(registered, store.uri)


def test_only_the_code_that_prediction_needs_is_copied() -> None:
    files = source_files(*REQUIRED)
    needed = {"jobs/artifacts/saved_model.py", "jobs/data/schema.py", "model/network.py"}
    assert needed <= files.keys()
    text = "\n".join(path.read_text("utf-8") for path in files.values())
    assert "import sumgrad" not in text
    for heavy in ("ray", "mlflow", "pyarrow", "pydantic", "pandas"):
        assert f"import {heavy}" not in text
        assert f"from {heavy}" not in text


def test_the_code_is_not_writable_by_others_whatever_the_umask(
    store: Store, registered: str, folder: Path, rows: pd.DataFrame
) -> None:
    umask = os.umask(0)
    try:
        model_id = log_model(store, registered, folder, rows, step=1)
    finally:
        os.umask(umask)
    location = store.client.get_logged_model(model_id).artifact_location
    files = list(Path(location.removeprefix("file://"), "code").rglob("*"))
    assert files
    assert [str(file) for file in files if file.stat().st_mode & 0o022] == []
