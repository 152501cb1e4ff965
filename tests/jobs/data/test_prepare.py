"""Rows are read, held out, encoded and scaled; digests identify what was read."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from sumgrad.jobs.errors import DataError, DataNotFound, SpecError
from tests.jobs.data.cases import REGRESSION, outputs, prepared, write_csv


def test_digits_are_held_out_by_class_and_scaled() -> None:
    data = prepared(outputs(10), train="digits", test=0.2, validation=0.1)
    assert data.validation is not None
    assert data.test is not None
    assert (data.train.count, data.validation.count, data.test.count) == (1295, 143, 359)
    assert set(data.validation.d.tolist()) == set(data.test.d.tolist()) == set(range(10))
    assert (data.train.x.min(), data.train.x.max()) == (0, 1)
    assert data.train.x.dtype == np.float32
    assert data.schema.image_shape == (8, 8)
    assert data.test.source == "digits (test rows)"


def test_every_row_is_in_exactly_one_split(tmp_path: Path) -> None:
    lines = [f"{i},{'ab'[i % 2]}" for i in range(40)]
    path = write_csv(tmp_path / "rows.csv", "x,label", *lines)
    data = prepared(outputs(2), train=path, test=0.2, validation=0.25, scaling="none")
    parts = [rows.x[:, 0] for rows in (data.train, data.validation, data.test) if rows]
    assert [len(part) for part in parts] == [24, 8, 8]
    assert sorted(np.concatenate(parts)) == list(range(40))
    assert all((np.diff(part) > 0).all() for part in parts)


def test_the_test_rows_depend_on_the_seed_not_on_a_validation() -> None:
    def test_digest(**options: Any) -> str:
        data = prepared(outputs(10), train="digits", test=0.2, **options)
        assert data.test is not None
        return data.test.digest

    assert test_digest() == test_digest(validation=0.1)
    assert test_digest() != test_digest(seed=1)


def test_scaling_is_fitted_on_the_training_rows_only(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", "x,y,label", "0,7,a", "4,7,b")
    test = write_csv(tmp_path / "test.csv", "y,extra,x,label", "9,1,8,a")
    data = prepared(outputs(2), train=train, test=test)
    assert data.train.x.tolist() == [[0, 0], [1, 0]]
    assert data.test is not None
    # Columns go by name, and the constant y stays 0 also where it is another number.
    assert data.test.x.tolist() == [[2, 0]]


def test_columns_of_several_files_are_matched_by_name(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", "x,y,label", "1,2,a")
    write_csv(tmp_path / "b.csv", "label,y,x", "b,20,10")
    data = prepared(outputs(2), train=tmp_path, scaling="none")
    assert data.train.x.tolist() == [[1, 2], [10, 20]]
    write_csv(tmp_path / "b.csv", "x,z,label", "1,2,b")
    with pytest.raises(DataError, match=r"column 'y': .*a\.csv has the column, .*b\.csv does not"):
        prepared(outputs(2), train=tmp_path)


def test_a_label_that_does_not_occur_in_training_is_refused(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", "x,label", "0,a", "4,b")
    test = write_csv(tmp_path / "test.csv", "x,label", "0,a", "4,c")
    with pytest.raises(DataError, match=r"test\.csv, column 'label', row 2: the label 'c'"):
        prepared(outputs(2), train=train, test=test)


def test_labels_that_are_numbers_in_one_file_and_texts_in_another_match(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", "x,label", "0,1", "4,other")
    test = write_csv(tmp_path / "test.csv", "x,label", "0,1")
    data = prepared(outputs(2), train=train, test=test)
    assert data.schema.classes == ("1", "other")
    assert data.test is not None
    assert data.test.d.tolist() == [0]


def test_another_number_of_features_or_targets_is_refused(tmp_path: Path) -> None:
    def lists(name: str, width: int, targets: int) -> Path:
        path = tmp_path / name
        table = {"x": [[1.0] * width, [2.0] * width], "label": [[1.0] * targets, [2.0] * targets]}
        parquet.write_table(pa.table(table), path)
        return path

    train = lists("train.parquet", 4, 1)
    with pytest.raises(DataError, match="expected 4 features as in training, found 3"):
        prepared(REGRESSION, train=train, test=lists("test.parquet", 3, 1))
    with pytest.raises(DataError, match="expected 1 target as in training, found 2"):
        prepared(REGRESSION, train=train, test=lists("test.parquet", 4, 2))


def test_a_missing_column_of_a_test_file_is_named(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", "width,label", "0,a", "4,b")
    test = write_csv(tmp_path / "test.csv", "widht,label", "0,a")
    with pytest.raises(DataNotFound, match=r"test\.csv has no column 'width'") as caught:
        prepared(outputs(2), train=train, test=test)
    assert caught.value.hint == "did you mean 'widht'?"


@pytest.mark.parametrize(
    ("fractions", "key", "message"),
    [
        ({"test": 0.1}, "data.test", "0.1 of 3 rows is not a single row"),
        ({"test": 0.9}, "data.test", "0.9 of 3 rows leaves no training rows"),
        ({"test": 0.5, "validation": 0.9}, "data.validation", "of 1 rows leaves no training rows"),
    ],
)
def test_a_fraction_that_leaves_no_rows_is_refused(
    tmp_path: Path, fractions: dict[str, Any], key: str, message: str
) -> None:
    path = write_csv(tmp_path / "rows.csv", "x,label", "1,1", "2,2", "3,3")
    with pytest.raises(SpecError, match=message) as caught:
        prepared(REGRESSION, train=path, **fractions)
    assert caught.value.key == key


@pytest.mark.parametrize("line", ["1e39,2", "2,1e39"])
def test_a_value_too_large_for_float32_is_refused(tmp_path: Path, line: str) -> None:
    path = write_csv(tmp_path / "rows.csv", "x,label", "1,1", line)
    with pytest.raises(DataError, match=r"rows\.csv, column '(x|label)', row 2: 1e\+39 is too"):
        prepared(REGRESSION, train=path, scaling="none")
    double = REGRESSION | {"dtype": "float64"}
    assert prepared(double, train=path, scaling="none").train.x.dtype == np.float64


def test_the_digest_depends_on_what_was_read_only(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", "x,label", "1,a", "2,b", "3,a", "4,b")
    plain = prepared(outputs(2), train=path)
    split = prepared(outputs(2), train=path, test=0.5, scaling="standard", seed=9)
    assert len(plain.digest) == 64
    assert plain.digest == split.digest
    assert plain.train.digest != split.train.digest
    assert len(plain.train.digest) <= 36
    moved = write_csv(tmp_path / "moved.csv", "x,label", "1,a", "2,b", "3,a", "4,b")
    assert prepared(outputs(2), train=moved).digest == plain.digest
    changes = [("x,label", "1,a", "2,b", "3,a", "5,b"), ("x,label", "1,a", "2,b", "3,b", "4,b")]
    for head, *lines in [*changes, ("y,label", "1,a", "2,b", "3,a", "4,b")]:
        other = write_csv(tmp_path / "other.csv", head, *lines)
        assert prepared(outputs(2), train=other).digest != plain.digest
    with_test = prepared(outputs(2), train=path, test=path).digest
    with_validation = prepared(outputs(2), train=path, validation=path).digest
    assert len({plain.digest, with_test, with_validation}) == 3


def test_the_example_has_three_raw_rows(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", "x,label", *[f"{i},{i % 2}" for i in range(9)])
    assert prepared(outputs(2), train=path).example.tolist() == [[0], [1], [2]]
