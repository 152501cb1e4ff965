"""CSV files whose lines do not fit into Arrow's blocks."""

from pathlib import Path

import numpy as np
import pytest

from sumgrad.jobs.data.readers.sources import read_dataset
from sumgrad.jobs.data.readers.tables import read_table
from sumgrad.jobs.errors import DataError
from tests.jobs.data.cases import write_csv


def test_a_header_above_a_block_is_read(tmp_path: Path) -> None:
    names = [f"{'long' * 20}{i}" for i in range(15_000)]
    header = ",".join([*names, "label"])
    assert len(header) > 1 << 20
    path = write_csv(tmp_path / "rows.csv", header, ",".join(["1"] * 15_001))
    rows = read_dataset(str(path), "train", ("label",))
    assert rows.x.shape == (1, 15_000)
    assert rows.features[-1] == names[-1]


def test_a_row_above_a_block_is_read(tmp_path: Path) -> None:
    lines = ["1,a", f"2,{'b' * (5 << 20)}"] * 2
    path = write_csv(tmp_path / "rows.csv", "x,label", *lines)
    table = read_table(path)
    assert table["x"].to_pylist() == [1, 2, 1, 2]
    assert [len(text) for text in table["label"].to_pylist()] == [1, 5 << 20] * 2


def test_a_ragged_row_of_a_file_with_long_lines_is_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", "x,label", f"1,{'a' * (2 << 20)}", "1,2,3")
    with pytest.raises(DataError, match=r"row 2: 3 values, but the file has 2 columns"):
        read_table(path)


def test_an_empty_line_is_not_a_table(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", "")
    with pytest.raises(DataError, match=r"rows\.csv: cannot be read"):
        read_table(path)


def test_a_late_text_makes_a_column_of_texts_and_keeps_the_numbers(tmp_path: Path) -> None:
    lines = [*["1,2"] * 300_000, "1.5,b"]
    table = read_table(write_csv(tmp_path / "rows.csv", "x,label", *lines))
    assert table["x"].to_numpy()[-1] == 1.5
    assert table["x"].to_numpy().dtype == np.float64
    assert table["label"][-1].as_py() == "b"


@pytest.mark.parametrize("integer", [2**53 + 1, -(2**63) - 1, 2**64 + 1], ids=str)
@pytest.mark.parametrize("lines", [1, 150_000])
def test_no_integer_is_rounded_silently(tmp_path: Path, integer: int, lines: int) -> None:
    """Arrow reads integers above 64 bits as float64, also if they follow in a later block."""
    rows = [*["1,2,true"] * lines, f"{integer},b,true"]
    path = write_csv(tmp_path / "rows.csv", "x,label,other", *rows)
    assert read_table(path)["x"][-1].as_py() == integer
    with pytest.raises(DataError, match=rf"'x', row {lines + 1}: {integer} is beyond 2\^53"):
        read_dataset(str(path), "train", ("label",), ("x",))


def test_large_classes_of_a_file_with_late_texts_stay_different(tmp_path: Path) -> None:
    lines = [*[f"1,{2**53}"] * 300_000, f"2,{2**53 + 1}", "2.5,3"]
    rows = read_dataset(
        str(write_csv(tmp_path / "rows.csv", "x,label", *lines)), "train", ("label",)
    )
    assert rows.targets is not None
    assert rows.targets[-3:].tolist() == [2**53, 2**53 + 1, 3]


def test_large_fractions_stay_float64_beside_other_columns(tmp_path: Path) -> None:
    lines = [" 1e20,true,NA", "0.5,false,b"]
    table = read_table(write_csv(tmp_path / "rows.csv", "x,y,label", *lines))
    assert table["x"].to_pylist() == [1e20, 0.5]
    assert table["y"].to_pylist() == [True, False]
    assert table["label"].to_pylist() == ["NA", "b"]
