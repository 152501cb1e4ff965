"""What a finished run leaves: the JSON object, MLflow's record, a model that predicts."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from sumgrad.jobs.artifacts.saved_model import load_model
from sumgrad.jobs.data.schema import DataSchema
from sumgrad.jobs.runs.summary import JSON_KEYS
from tests.integration.command_line import Finished, Folder


@pytest.fixture(scope="module")
def run(shared_folder: Folder) -> Finished:
    """A training run of the flowers."""
    return shared_folder.sumgrad("train", "flowers.yaml", "--json")


@pytest.fixture(scope="module")
def record(shared_folder: Folder, run: Finished) -> Run:
    """The run in MLflow."""
    found = shared_folder.mlflow_run()
    assert found.info.run_name == run.result["run_id"]
    return found


def test_the_json_object_is_the_promised_one(run: Finished) -> None:
    assert run.code == 0, run.err
    assert tuple(run.result) == JSON_KEYS
    assert run.result["status"] == "FINISHED"
    assert run.result["stop_reason"] == "max_epochs"
    assert run.result["epochs"] == 8
    assert run.result["steps"] == 8 * 4
    assert run.result["instances_seen"] == 8 * 108
    assert run.result["test_accuracy"] > 0.9


def test_with_json_stdout_holds_nothing_else(run: Finished) -> None:
    assert len(run.out.strip().splitlines()) == 1
    assert "epoch 1/8" in run.err


def test_the_hash_is_that_of_the_saved_weights(run: Finished) -> None:
    model = load_model(Path(run.result["checkpoint"]))
    assert model.parameters.sha256() == run.result["weights_sha256"]


def test_mlflow_has_status_parameters_and_tags(record: Run, run: Finished) -> None:
    assert record.info.status == "FINISHED"
    assert record.data.params["optimizer.eta"] == "0.3"
    assert record.data.params["model.layers.0.units"] == "6"
    assert record.data.tags["sumgrad.weights_sha256"] == run.result["weights_sha256"]
    assert record.data.tags["sumgrad.stop_reason"] == "max_epochs"
    assert record.data.tags["sumgrad.seed"] == "3"
    assert len(record.data.tags["sumgrad.data_digest"]) == 64


def test_mlflow_has_every_epoch_of_every_curve(shared_folder: Folder, record: Run) -> None:
    client = MlflowClient(shared_folder.tracking_uri)
    for name in (
        "train_loss",
        "validation_loss",
        "validation_accuracy",
        "gradient_norm",
        "learning_rate",
        "samples_per_second",
    ):
        history = client.get_metric_history(record.info.run_id, name)
        run_points = [point.step for point in history if point.model_id is None]
        assert sorted(set(run_points)) == list(range(1, 9)), name
    assert {"test_loss", "test_accuracy"} <= set(record.data.metrics)


def test_mlflow_has_the_data_and_the_resolved_spec(
    shared_folder: Folder, record: Run, tmp_path: Path
) -> None:
    assert record.inputs is not None
    contexts = {item.tags[0].value: item.dataset for item in record.inputs.dataset_inputs}
    assert set(contexts) == {"training", "validation", "test"}
    assert json.loads(str(contexts["training"].profile)) == {"num_rows": 108}
    client = MlflowClient(shared_folder.tracking_uri)
    text = Path(client.download_artifacts(record.info.run_id, "spec.yaml", str(tmp_path)))
    assert "eta: 0.3" in text.read_text()


def test_mlflows_model_predicts_on_a_data_frame(shared_folder: Folder, record: Run) -> None:
    done = shared_folder.python(
        "import mlflow, pandas as pd\n"
        f"mlflow.set_tracking_uri('{shared_folder.tracking_uri}')\n"
        f"model = mlflow.pyfunc.load_model('runs:/{record.info.run_id}/model')\n"
        "rows = pd.DataFrame({'sepal': [5.0, 1.0, 6.0], 'petal': [1.0, 4.0, 6.0]})\n"
        "print(model.predict(rows)['prediction'].tolist())\n"
    )
    assert done.out.strip() == "['rose', 'lily', 'iris']", done.err


@pytest.mark.parametrize("by", ["run id", "beginning of the run id", "folder"])
def test_a_model_is_evaluated(shared_folder: Folder, run: Finished, by: str) -> None:
    names = {
        "run id": run.result["run_id"],
        "beginning of the run id": run.result["run_id"][:8],
        "folder": run.result["checkpoint"],
    }
    done = shared_folder.sumgrad("evaluate", names[by], "flowers.csv", "--json")
    assert done.code == 0, done.err
    assert done.result["rows"] == 180
    assert done.result["accuracy"] > 0.9


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_predictions_are_written_with_probabilities(
    shared_folder: Folder, run: Finished, ending: str
) -> None:
    out = shared_folder.path / f"predictions.{ending}"
    done = shared_folder.sumgrad(
        "predict", run.result["checkpoint"], "flowers.csv", "--out", str(out)
    )
    assert done.code == 0, done.err
    read = {"parquet": pyarrow.parquet.read_table, "csv": pyarrow.csv.read_csv}[ending]
    table = read(out).to_pydict()
    assert set(table) == {
        "prediction",
        "probability_iris",
        "probability_lily",
        "probability_rose",
    }
    shares = np.column_stack([table[f"probability_{k}"] for k in ("iris", "lily", "rose")])
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    winners = np.array(["iris", "lily", "rose"])[shares.argmax(axis=1)]
    assert table["prediction"] == winners.tolist()


def test_the_saved_model_keeps_the_scaling_of_training(run: Finished) -> None:
    schema = load_model(Path(run.result["checkpoint"])).schema
    assert isinstance(schema, DataSchema)
    assert schema.classes == ("iris", "lily", "rose")
    assert schema.scaling.kind == "minmax"
    assert len(schema.scaling.offset) == 2


def test_without_json_the_summary_says_what_to_do_next(folder: Folder) -> None:
    done = folder.sumgrad("train", "flowers.yaml")
    assert done.code == 0, done.err
    assert done.err == ""
    lines = done.out.splitlines()
    assert lines[0].startswith("flowers: 108 training rows, network 2-6-3")
    assert any(line.startswith("epoch 1/8") for line in lines)
    assert any(line.startswith("epoch 8/8") for line in lines), "the last epoch is always shown"
    for text in ("epochs, the maximum (", "accuracy", "sha256", "sumgrad ui", "predict"):
        assert text in done.out


def test_the_same_job_gives_the_same_bits_again(folder: Folder, run: Finished) -> None:
    again = folder.sumgrad("train", "flowers.yaml", "--json")
    assert again.result["weights_sha256"] == run.result["weights_sha256"]


def test_help_imports_nothing_heavy(folder: Folder) -> None:
    done = folder.python(
        "import sys\n"
        "sys.argv = ['sumgrad', '--help']\n"
        "from sumgrad.jobs.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'ray', 'mlflow', 'numpy', 'pyarrow', 'pydantic', 'sklearn', 'pandas'}\n"
        "found = heavy & set(sys.modules)\n"
        "assert not found, found\n"
    )
    assert done.code == 0, done.err
    assert "train" in done.out


def test_no_process_is_left_behind(folder: Folder) -> None:
    """Ray's processes run in a folder below TMPDIR, which distinguishes them from all others."""
    # Not pytest's folder: the path of a socket may not be long.
    with tempfile.TemporaryDirectory() as temporary:
        own = Folder(folder.path, {"TMPDIR": temporary})
        done = own.run_installed("train", "flowers.yaml", "--set", "cluster.address=local")
        assert done.code == 0, done.err
        assert not list(Path(temporary).glob("sumgrad-*"))
        assert not [link for link in working_folders() if link.startswith(temporary)]


def working_folders() -> Iterator[str]:
    """The current folder of every process."""
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            yield str((process / "cwd").readlink())
