"""Rows are read as the model's training read them."""

from pathlib import Path

import numpy as np
import pytest

from sumgrad.jobs.data.prediction import read_for_model
from sumgrad.jobs.data.schema import DataSchema
from sumgrad.jobs.errors import DataError, DataNotFound
from tests.jobs.data.cases import outputs, prepared, write_csv

SCHEMA = DataSchema(("x", "y"), classes=(1, 2, "none"), seen=(1, 2), reject="none")


def test_extra_columns_and_a_missing_label_do_not_matter(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", "id,y,x", "a,2,1")
    read = read_for_model(str(path), SCHEMA, "float32", with_labels=False)
    assert read.labels is None
    assert read.x.tolist() == [[1, 2]]
    with pytest.raises(DataNotFound, match="has no column 'label'"):
        read_for_model(str(path), SCHEMA, "float32", with_labels=True)


def test_texts_that_are_numbers_in_training_become_numbers(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", "x,y,label", "1,2,2", "3,4,none")
    read = read_for_model(str(path), SCHEMA, "float32", with_labels=True)
    assert read.targets.tolist() == [2, "none"]
    assert SCHEMA.encode(read.targets, np.float32).tolist() == [1, 2]


def test_an_unknown_label_is_named_with_its_row(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", "x,y,label", "1,2,1", "3,4,3")
    with pytest.raises(DataError, match="row 2: the label '3' does not occur"):
        read_for_model(str(path), SCHEMA, "float32", with_labels=True)


def test_built_in_digits_for_a_model_of_digits() -> None:
    schema = prepared(outputs(10), train="digits").schema
    assert read_for_model("digits", schema, "float32", with_labels=True).count == 1797
    with pytest.raises(DataNotFound, match="has no feature 'pixel_0_0'"):
        read_for_model("diabetes", schema, "float32", with_labels=False)


def test_a_value_too_large_for_the_models_arithmetic_is_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", "x,y", "1,2", "1e39,2")
    with pytest.raises(DataError, match=r"column 'x', row 2: 1e\+39 is too large for float32"):
        read_for_model(str(path), SCHEMA, "float32", with_labels=False)
    assert read_for_model(str(path), SCHEMA, "float64", with_labels=False).count == 2
