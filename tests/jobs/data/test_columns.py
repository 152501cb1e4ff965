"""Columns become exact, finite numbers, or an error that names column and row."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sumgrad.jobs.data.columns import rows_of_table
from sumgrad.jobs.data.dataset import RawDataset
from sumgrad.jobs.data.readers.sources import read_dataset
from sumgrad.jobs.errors import DataError, DataNotFound
from tests.jobs.data.cases import write_csv

EXACT = 2**53


def rows(columns: dict[str, Any], *, numeric_labels: bool = False) -> RawDataset:
    label = tuple(name for name in columns if name.startswith("label"))
    return rows_of_table(pa.table(columns), "f", None, label, numeric_labels=numeric_labels)


def error(columns: dict[str, Any], *, numeric_labels: bool = False) -> DataError:
    with pytest.raises(DataError) as caught:
        rows(columns, numeric_labels=numeric_labels)
    assert caught.value.file == "f"
    return caught.value


@pytest.mark.parametrize(
    "column",
    [
        pa.array([0, EXACT + 1]),
        pa.array([0, -EXACT - 1]),
        pa.array([0, EXACT + 2], pa.uint64()),
        pa.array([0, -(2**63)]),
        pa.array([Decimal(0), Decimal(EXACT + 1)], pa.decimal128(30, 0)),
        pa.array([[0, 0], [0, EXACT + 1]]),
    ],
    ids=str,
)
def test_an_integer_that_float64_would_round_is_refused(column: pa.Array) -> None:
    found = error({"x": column, "label": [0, 1]})
    assert (found.column, found.row) == ("x", 2)
    assert "is beyond 2^53, and would be rounded" in found.message
    if not pa.types.is_list(column.type):
        assert str(column[1].as_py()) in found.message


@pytest.mark.parametrize("label", [Decimal(EXACT + 1), EXACT + 1.0], ids=["decimal", "float"])
def test_a_class_that_was_rounded_is_refused(label: object) -> None:
    found = error({"x": [1, 2], "label": [0, label]})
    assert (found.column, found.row) == ("label", 2)


def test_integers_up_to_2_to_the_53_are_exact() -> None:
    read = rows({"x": [EXACT, -EXACT], "label": [0, 1]})
    assert read.x.tolist() == [[EXACT], [-EXACT]]
    fractions = pa.array([Decimal("0.1"), Decimal("1e20")], pa.decimal128(30, 2))
    assert rows({"x": fractions, "label": [0, 1]}).x.tolist() == [[0.1], [1e20]]
    assert rows({"x": [1e20, 0.5], "label": [0, 1]}).x.tolist() == [[1e20], [0.5]]


def test_large_integers_stay_exact_as_classes_but_not_as_targets() -> None:
    ids = [EXACT + 1, EXACT + 2]
    assert rows({"x": [1, 2], "label": ids}).targets.tolist() == ids
    found = error({"x": [1, 2], "label": ids}, numeric_labels=True)
    assert (found.column, found.row) == ("label", 1)


def test_a_large_integer_of_a_csv_file_is_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", "x,label", "1,0", f"{EXACT + 1},1")
    with pytest.raises(DataError, match=rf"column 'x', row 2: {EXACT + 1} is beyond 2\^53"):
        read_dataset(str(path), "train", ("label",))


@pytest.mark.parametrize(
    ("x", "row", "message"),
    [
        ([1.0, 1e151], 2, "1e+151 is too large to compute with"),
        ([1.0, -np.inf], 2, "-inf is not a finite number"),
        ([np.nan, 1.0], 1, "nan is not a finite number"),
        (["1", "2"], None, "the type string is not a number"),
        (["1", None], 2, "the value is missing"),
        (["1", " "], 2, "the value is missing"),
        (["1", "y" * 50], 2, f"'{'y' * 40}…' is not a number"),
        (["y" * 40, "1"], 1, f"'{'y' * 40}' is not a number"),
        ([b"1", b"2"], None, "holds bytes"),
        (pa.array([b"1", b"2"], pa.large_binary()), None, "holds bytes"),
        (pa.nulls(2), 1, "the value is missing"),
        ([[], []], None, "the lists are empty"),
        ([[1], [1, 2]], 2, "the list has 2 items, the first row's has 1"),
        ([[1], None], 2, "the value is missing"),
        ([{"a": 1}, {"a": 2}], None, "is not a number"),
        (pa.array([np.float16(1), np.float16(np.inf)], pa.float16()), 2, "inf is not a finite"),
    ],
)
def test_an_error_of_a_feature_names_column_and_row(x: Any, row: int | None, message: str) -> None:
    found = error({"x": x, "label": [0, 1]})
    assert message in found.message
    assert (found.column, found.row) == ("x", row)


def test_the_largest_value_is_accepted() -> None:
    assert rows({"x": [1e150, -1e150], "label": [0, 1]}).x.tolist() == [[1e150], [-1e150]]
    largest = np.float32(np.finfo(np.float32).max)
    assert rows({"x": pa.array([largest]), "label": [0]}).x[0, 0] == largest


@pytest.mark.parametrize(
    ("label", "row", "message"),
    [
        (["a", ""], 2, "the label is empty"),
        (["a", None], 2, "the value is missing"),
        ([1.0, 1.5], 2, "1.5 is not a class"),
        ([1.0, 2.0**63], 2, "is not a class"),
        (pa.array([1, 2**63], pa.uint64()), 2, "is not a class"),
        ([1, None], 2, "the value is missing"),
    ],
)
def test_an_error_of_a_class_names_column_and_row(label: Any, row: int, message: str) -> None:
    found = error({"x": [1, 2], "label": label})
    assert message in found.message
    assert (found.column, found.row) == ("label", row)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        (pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array([7, 8]).dictionary_encode(), [7, 8]),
        ([3.0, -4.0], [3, -4]),
        ([True, False], [1, 0]),
        (pa.array([1, 2], pa.uint8()), [1, 2]),
    ],
)
def test_classes_are_texts_or_whole_numbers(label: Any, expected: list[object]) -> None:
    assert rows({"x": [1, 2], "label": label}).targets.tolist() == expected


def test_columns_of_different_types_share_the_widest() -> None:
    read = rows({"a": pa.array([1, 2], pa.int8()), "b": [True, False], "label": [0, 1]})
    assert read.x.dtype == np.int16
    assert rows({"a": pa.array([1, 2], pa.uint8()), "label": [0, 1]}).x.dtype == np.uint8
    decimals = pa.array([Decimal("0.5"), Decimal(1)])
    assert rows({"a": decimals, "label": [0, 1]}).x.dtype == np.float64


def test_targets_of_a_regression_are_columns_or_a_list() -> None:
    columns = rows({"x": [1], "label_a": [2], "label_b": [3]}, numeric_labels=True)
    assert columns.targets.tolist() == [[2.0, 3.0]]
    lists = rows({"x": [1], "label": [[2, 3]]}, numeric_labels=True)
    assert lists.targets.tolist() == [[2.0, 3.0]]
    assert lists.targets.dtype == np.float64


def test_a_single_list_column_holds_all_features() -> None:
    read = rows({"x": [[1, 2], [3, 4]], "label": [0, 1]})
    assert (read.features, read.list_column, read.columns) == (("x_0", "x_1"), "x", ("x",))
    found = error({"x": [[1, 2], [3, 4]], "y": [1, 2], "label": [0, 1]})
    assert (found.column, found.row) == ("x", None)


def test_a_table_needs_a_column_besides_the_label() -> None:
    with pytest.raises(DataNotFound, match="has no column but the label"):
        rows({"label": [0, 1]})
    with pytest.raises(DataNotFound, match="has no column 'y'"):
        rows_of_table(pa.table({"x": [1]}), "f", ("y",), (), numeric_labels=False)
