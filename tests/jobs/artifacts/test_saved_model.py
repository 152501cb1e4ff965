"""A model on disk: what is saved is loaded, and damage is refused."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from sumgrad.jobs.artifacts.saved_model import (
    DESCRIPTION,
    WEIGHTS,
    SavedModel,
    load_model,
    save_model,
)
from sumgrad.jobs.data.schema import DataSchema
from sumgrad.jobs.errors import JobError, ModelNotFound, ModelNotSaved
from sumgrad.model import Layer, Network, make_activation, resolve_divergence
from tests.disks import fill, small_disk

FEATURES = ("a", "b", "c")
THREE = DataSchema(FEATURES, classes=("x", "y", "z"))
TWO = DataSchema(FEATURES, classes=("no", "yes"), kind="two_class", positive="yes")
NUMBERS = DataSchema(FEATURES, targets=("u", "v"), kind="numbers")


def trained(
    schema: DataSchema, *layers: tuple[int, object], divergence: str = "kl", dtype: str = "float32"
) -> SavedModel:
    made = tuple(Layer(units, make_activation(named)) for units, named in layers)  # type: ignore[arg-type]
    network = Network(3, made, resolve_divergence(divergence, made[-1].activation), dtype)
    flat = np.random.default_rng(0).normal(size=network.layout.size).astype(dtype)
    return SavedModel("iris", network, network.parameters(flat), schema, {"epochs": 3})


@pytest.fixture
def saved() -> SavedModel:
    return trained(THREE, (4, "relu"), (3, "softmax"))


@pytest.fixture
def folder(saved: SavedModel, tmp_path: Path) -> Path:
    save_model(tmp_path / "runs" / "one", saved)
    return tmp_path / "runs" / "one"


@pytest.fixture
def x() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(600, 3)).astype("float32")


@pytest.mark.parametrize(
    "model",
    [
        trained(THREE, (4, "relu"), (3, "softmax")),
        trained(TWO, (2, "sigmoid"), (1, "sigmoid")),
        trained(
            NUMBERS,
            (4, {"name": "leaky_relu", "slope": 0.1}),
            (3, {"name": "maxout", "pieces": 2}),
            (4, {"name": "max", "subsets": [[0, 1], [2, 3]]}),
            divergence="l2",
            dtype="float64",
        ),
    ],
    ids=["softmax", "sigmoid", "regression"],
)
def test_saving_and_loading_round_trips(model: SavedModel, tmp_path: Path) -> None:
    save_model(tmp_path / "m", model)
    again = load_model(tmp_path / "m")
    assert again.network == model.network
    assert again.schema == model.schema
    assert (again.name, again.metadata) == ("iris", {"epochs": 3})
    assert again.parameters.flat.dtype == model.parameters.flat.dtype
    assert again.parameters.flat.tobytes() == model.parameters.flat.tobytes()


def test_a_failed_save_leaves_nothing(saved: SavedModel, tmp_path: Path) -> None:
    broken = replace(saved, metadata={"path": Path("json knows no paths")})
    with pytest.raises(TypeError):
        save_model(tmp_path / "m", broken)
    assert list(tmp_path.iterdir()) == []


def test_a_model_replaces_a_model_and_nothing_else(saved: SavedModel, folder: Path) -> None:
    save_model(folder, replace(saved, name="later"))
    assert load_model(folder).name == "later"
    assert [path.name for path in folder.parent.iterdir()] == ["one"]
    with pytest.raises(JobError, match="is not a saved model"):
        save_model(folder.parent, saved)
    assert load_model(folder).name == "later"


def test_outputs_are_computed_in_fixed_batches(saved: SavedModel, x: NDArray[np.float32]) -> None:
    slices = [saved.network.predict(saved.parameters, x[i : i + 256]) for i in (0, 256, 512)]
    assert saved.outputs(x).tobytes() == np.concatenate(slices).tobytes()
    assert saved.outputs(x[:0]).shape == (0, 3)


def test_classes_get_a_prediction_and_probabilities(
    saved: SavedModel, x: NDArray[np.float32]
) -> None:
    y = saved.outputs(x)
    columns = saved.predict_columns(x)
    assert list(columns) == ["prediction", "probability_x", "probability_y", "probability_z"]
    assert list(columns["prediction"]) == ["xyz"[i] for i in y.argmax(axis=1)]
    assert np.array_equal(columns["probability_y"], y[:, 1])


def test_one_sigmoid_gives_both_probabilities(x: NDArray[np.float32]) -> None:
    model = trained(TWO, (1, "sigmoid"))
    y = model.outputs(x)[:, 0]
    columns = model.predict_columns(x)
    assert list(columns) == ["prediction", "probability_no", "probability_yes"]
    assert np.array_equal(columns["probability_yes"], y)
    assert np.array_equal(columns["probability_no"], 1 - y)
    assert list(columns["prediction"]) == ["yes" if p >= 0.5 else "no" for p in y]


def test_a_regression_gives_its_targets(x: NDArray[np.float32]) -> None:
    model = trained(NUMBERS, (2, "identity"), divergence="l2")
    columns = model.predict_columns(x)
    assert list(columns) == ["u", "v"]
    assert np.array_equal(columns["v"], model.outputs(x)[:, 1])


def change_json(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / DESCRIPTION
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def change_tensors(
    change: Callable[[dict[str, NDArray[np.generic]]], object],
) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return rewrite


def truncate(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-10])


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: folder.rename(folder.with_name("gone")), "the folder does not exist"),
        (lambda folder: (folder / DESCRIPTION).unlink(), f"has no {DESCRIPTION}"),
        (lambda folder: (folder / WEIGHTS).unlink(), f"has no {WEIGHTS}"),
        (lambda folder: (folder / DESCRIPTION).write_text('{"format": 1,'), "is damaged"),
        (lambda folder: (folder / DESCRIPTION).write_text("[]"), "is damaged"),
        (lambda folder: (folder / DESCRIPTION).write_bytes(b"\xff\xfe"), "is damaged"),
        (lambda folder: (folder / DESCRIPTION).write_text('{"format": 2}'), "is damaged"),
        (change_json(format=1), "has format 1, this sumgrad reads 2"),
        (change_json(network={"inputs": 3, "layers": []}), "is damaged"),
        (change_json(schema=[]), "is damaged"),
        (change_json(schema=TWO.to_json()), "schema and network do not match"),
        (change_json(weights_sha256="0" * 64), "was altered"),
        (truncate, "is damaged"),
        (change_tensors(lambda tensors: tensors.pop("b1")), "the tensor b1 is missing"),
        (
            change_tensors(lambda tensors: tensors.update(W9=np.zeros(1))),
            "the tensor W9 is float64",
        ),
        (
            change_tensors(lambda tensors: tensors.update(b1=np.zeros(5, "float32"))),
            r"b1 is float32 \(5,\), expected float32 \(4,\)",
        ),
        (
            change_tensors(lambda tensors: tensors.update(b1=np.zeros(4, "float64"))),
            "b1 is float64",
        ),
        (
            change_tensors(lambda tensors: tensors.update(b1=np.ones(4, "float32"))),
            "was altered",
        ),
    ],
)
def test_damage_is_reported_on_one_line(
    folder: Path, harm: Callable[[Path], None], words: str
) -> None:
    harm(folder)
    with pytest.raises(ModelNotFound, match=words) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_weights_larger_than_the_network_are_not_read(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, 1 << 40)
    with pytest.raises(ModelNotFound, match=r"safetensors cannot be read: has 1,099,511,627,776"):
        load_model(folder)


def test_a_network_larger_than_memory_is_not_read(folder: Path) -> None:
    """The description has been altered to match."""
    description = json.loads((folder / DESCRIPTION).read_text())
    description["network"]["layers"][0]["units"] = 1 << 36
    (folder / DESCRIPTION).write_text(json.dumps(description))
    os.truncate(folder / WEIGHTS, 1 << 40)
    with pytest.raises(ModelNotFound, match=r"has 1,024\.0 GiB, and this machine has"):
        load_model(folder)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": 1, "metadata": ' * 50_000, "\0" * 99])
def test_a_description_that_is_not_json_is_refused(folder: Path, text: str) -> None:
    (folder / DESCRIPTION).write_text(text)
    with pytest.raises(ModelNotFound, match=r"model\.json is damaged"):
        load_model(folder)


def test_a_huge_description_is_not_read(folder: Path) -> None:
    os.truncate(folder / DESCRIPTION, 1 << 40)
    with pytest.raises(ModelNotFound, match=r"model\.json cannot be read: has 1,099,511,627,776"):
        load_model(folder)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS])
def test_a_pipe_or_a_device_is_refused(folder: Path, name: str) -> None:
    path = folder / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ModelNotFound):
        load_model(folder)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ModelNotFound):
        load_model(folder)


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/../../b"])
def test_names_of_tensors_are_not_used_as_paths(folder: Path, saved: SavedModel, name: str) -> None:
    tensors = {name if old == "W1" else old: value for old, value in saved.parameters.items()}
    save_file(tensors, folder / WEIGHTS)
    before = sorted(folder.parent.parent.rglob("*"))
    with pytest.raises(ModelNotFound, match="does not match"):
        load_model(folder)
    assert sorted(folder.parent.parent.rglob("*")) == before


def test_a_model_is_not_written_through_a_link(
    folder: Path, saved: SavedModel, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    text = (folder / DESCRIPTION).read_text()
    save_model(link, replace(saved, name="another"))
    assert not link.is_symlink()
    assert load_model(link).name == "another"
    assert (folder / DESCRIPTION).read_text() == text


def test_a_full_disk_is_one_line_with_a_hint(saved: SavedModel, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        fill(disk)
        with pytest.raises(ModelNotSaved, match="No space left on device") as caught:
            save_model(disk / "model", saved)
    assert "sumgrad resume" in caught.value.hint
