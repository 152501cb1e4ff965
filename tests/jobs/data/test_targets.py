"""Labels and output layer must fit; an error names the key to set."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sumgrad.jobs.errors import DataError, SpecError
from tests.jobs.data.cases import REGRESSION, SIGMOID, job, outputs, prepared, write_csv


@pytest.fixture
def kinds(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "kinds.csv", "x,label", "1,10", "2,9", "3,10", "4,30")


def test_classes_are_sorted(kinds: Path, tmp_path: Path) -> None:
    assert prepared(outputs(3), train=kinds).schema.classes == (9, 10, 30)
    texts = write_csv(tmp_path / "texts.csv", "x,label", "1,b", "2,a10", "3,a9")
    assert prepared(outputs(3), train=texts).schema.classes == ("a10", "a9", "b")


@pytest.mark.parametrize(
    ("model", "data", "key", "message", "hint"),
    [
        (outputs(2), {}, "model.layers[0].units", "3 classes: 9, 10, 30", "set it to 3"),
        (
            {"layers": [{"units": 4}, {"units": 3, "activation": "max"}], "divergence": "l2"},
            {"task": "classification", "positive": 11},
            "data.positive",
            "no class 11",
            "known: 10, 30, 9",
        ),
        (SIGMOID, {}, "data.positive", "one output, but the data has 3 classes", "name the class"),
        (SIGMOID, {"positive": 90}, "data.positive", "no class 90", "did you mean '9'?"),
        (outputs(3), {"positive": 9}, "data.positive", "needs one sigmoid output", ""),
        (
            {"layers": [{"units": 2}], "divergence": "l2"},
            {},
            "model.layers[0].units",
            "2 outputs, but the data has 1 target",
            "set it to 1",
        ),
        (
            {"layers": [{"units": 4, "activation": "max"}], "divergence": "l2"},
            {"label": ["x", "label"], "features": ["y"]},
            "model.layers[0].units",
            "1 output, but the data has 2 targets",
            "its activation must give 2 outputs",
        ),
    ],
)
def test_labels_that_do_not_fit_the_outputs_name_the_key(
    tmp_path: Path, model: dict[str, Any], data: dict[str, Any], key: str, message: str, hint: str
) -> None:
    rows = write_csv(tmp_path / "r.csv", "x,y,label", "1,1,10", "2,5,9", "3,1,10", "4,2,30")
    with pytest.raises(SpecError, match=message) as caught:
        prepared(model, train=rows, **data)
    assert caught.value.key == key
    assert hint in caught.value.hint


def test_a_reject_class_adds_an_output() -> None:
    with pytest.raises(SpecError, match="10 outputs, but the data has 11 classes"):
        prepared(outputs(10), train="digits", reject={})
    with pytest.raises(SpecError, match="has a class '3' already"):
        prepared(outputs(11), train="digits", reject={"label": "3"})


def test_maxout_has_one_output_per_unit(kinds: Path) -> None:
    maxout = {"name": "maxout", "pieces": 2}
    model = {"layers": [{"units": 3, "activation": maxout}], "divergence": "l2"}
    data = prepared(model, train=kinds, task="classification")
    assert data.train.d.tolist() == [[0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_with_one_output_the_positive_class_is_1(kinds: Path, tmp_path: Path) -> None:
    data = prepared(SIGMOID, train=kinds, positive=10)
    assert data.train.d.tolist() == [[1], [0], [1], [0]]
    assert data.train.d.dtype == np.float32
    assert data.schema.classes == ("not 10", 10)
    assert data.schema.seen == (9, 10, 30)
    # Of two classes the second is the positive one, and a number may be given as text.
    two = write_csv(tmp_path / "two.csv", "x,label", "1,yes", "2,no")
    assert prepared(SIGMOID, train=two).train.d.tolist() == [[1], [0]]
    assert prepared(SIGMOID, train=kinds, positive="10").schema.positive == 10


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "one.csv", "x,label", "1,a", "2,a")
    with pytest.raises(DataError, match=r"one\.csv, column 'label': every row has the label 'a'"):
        prepared(outputs(1), train=path)


def test_built_in_labels_are_classes_or_numbers_by_task() -> None:
    assert prepared(REGRESSION, train="digits", label="digit").train.d.shape == (1797, 1)
    assert prepared(REGRESSION, train="diabetes").train.d.shape == (442, 1)
    with pytest.raises(SpecError, match="214 classes: 25, 31, 37"):
        prepared(outputs(2), train="diabetes")


def test_specs_are_what_the_cases_say() -> None:
    assert job(REGRESSION, train="digits").task == "regression"
    assert job(SIGMOID, train="digits").task == "classification"
