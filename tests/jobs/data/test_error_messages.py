"""Bad data raises one error with file, column and row."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv, parquet

from sumgrad.jobs.data.prediction import write_columns
from sumgrad.jobs.data.readers.sources import read_dataset
from sumgrad.jobs.errors import DataError, DataNotFound, JobError
from tests.fuzzing import cases, only

LABEL = ("kind",)


def read(path: Path, **options: object) -> None:
    read_dataset(str(path), "train", LABEL, **options)  # type: ignore[arg-type]


def error_of(path: Path, **options: object) -> DataError:
    """The error that reading gives; one line that names the file."""
    with pytest.raises(DataError) as caught:
        read(path, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("content", "column", "row", "message"),
    [
        ("x,kind\n1,a\n,b\n", "x", 2, "missing"),
        ("x,kind\n1,a\n2,\n", "kind", 2, "empty"),
        ("x,kind\n1,a\ntall,b\n", "x", 2, "'tall' is not a number"),
        ("x,kind\n1,a\ninf,b\n", "x", 2, "inf is not a finite number"),
        ("x,kind\n1,a\n-inf,b\n", "x", 2, "-inf is not a finite number"),
        ("x,kind\n1,1.5\n2,2\n", "kind", 1, "neither an exact integer nor a string"),
        ("x,kind\n2020-01-01,a\n2020-01-02,b\n", "x", None, "is not a number"),
        ("x,x,kind\n1,2,a\n", "x", None, "given twice"),
        ("x,kind\n", None, None, "has no rows"),
        ("", None, None, "has no rows"),
        ("x,kind\n1,a\n2,b,c\n", None, 2, "3 values, but the file has 2 columns"),
        ("x,kind\n1,a\n2,\xff\n", "kind", None, ""),
    ],
)
def test_an_error_in_a_csv_file(
    tmp_path: Path, content: str, column: str | None, row: int | None, message: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content.encode("latin-1"))
    error = error_of(path)
    assert message in str(error)
    if message:
        assert (error.column, error.row) == (column, row)


def test_a_text_in_a_later_block_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    lines = [f"{i},a" for i in range(200_000)]
    lines[150_000] = "oops,a"
    path.write_text("x,kind\n" + "\n".join(lines) + "\n")
    assert path.stat().st_size > 1 << 20
    error = error_of(path)
    assert (error.column, error.row) == ("x", 150_001)
    assert "'oops' is not a number" in str(error)


def test_a_missing_column_gets_the_nearest_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("x,kinds\n1,a\n")
    with pytest.raises(DataNotFound, match="has no column 'kind'") as caught:
        read(path)
    assert caught.value.hint == "did you mean 'kinds'?"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.csv", "there is no file or folder"),
        ("rows.xlsx", "has no known format"),
        ("*.csv", "no file matches"),
        ("empty", "has no data files"),
        ("s3://bucket/rows.csv", "files of this machine only"),
    ],
)
def test_a_source_that_does_not_exist(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "rows.xlsx").touch()
    (tmp_path / "empty").mkdir()
    source = name if "://" in name else str(tmp_path / name)
    with pytest.raises(DataNotFound, match=message):
        read_dataset(source, "train", LABEL)


def test_nan_in_a_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"x": [1.0, np.nan], "kind": [0, 1]}), path)
    error = error_of(path)
    assert (error.column, error.row) == ("x", 2)
    assert "nan is not a finite number" in str(error)


def test_lists_of_different_lengths_and_with_gaps(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"p": [[1, 2], [3]], "kind": [0, 1]}), path)
    assert (error_of(path).column, error_of(path).row) == ("p", 2)
    parquet.write_table(pa.table({"p": [[1, 2], [3, None]], "kind": [0, 1]}), path)
    assert (error_of(path).column, error_of(path).row) == ("p", 2)
    parquet.write_table(pa.table({"p": [[1.0, 2.0], [3.0, np.nan]], "kind": [0, 1]}), path)
    assert (error_of(path).column, error_of(path).row) == ("p", 2)
    parquet.write_table(pa.table({"p": [[1, 2], None], "kind": [0, 1]}), path)
    assert (error_of(path).column, error_of(path).row) == ("p", 2)


def test_a_text_label_of_a_regression(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("x,kind\n1,2.5\n2,a\n")
    error = error_of(path, numeric_labels=True)
    assert (error.column, error.row) == ("kind", 2)


def test_files_with_different_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,kind\n1,a\n")
    (tmp_path / "b.csv").write_text("x,kind\n1,2\n")
    with pytest.raises(DataError, match=r"labels are (strings|numbers) here"):
        read(tmp_path)
    (tmp_path / "b.csv").write_text("x,y,kind\n1,2,a\n")
    with pytest.raises(DataError, match=r"b.csv: 2 features, but .*a.csv has 1"):
        read(tmp_path)


def write_idx(folder: Path, images: bytes, labels: bytes) -> Path:
    (folder / "train-labels-idx1-ubyte").write_bytes(labels)
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(images)
    return path


def header(*shape: int, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


GOOD_LABELS = header(2) + b"\1\2"


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (b"", GOOD_LABELS, "is empty"),
        (b"\0\0", GOOD_LABELS, "ends in its header"),
        (header(2, 2, 2)[:9], GOOD_LABELS, "ends in its header"),
        (header(2, 2, 2, kind=13) + bytes(8), GOOD_LABELS, "is not an IDX file"),
        (b"PK\3\4" + bytes(20), GOOD_LABELS, "is not an IDX file"),
        (header(2, 2, 2) + bytes(7), GOOD_LABELS, "the file has 7 of 8"),
        (header(2, 2, 2) + bytes(9), GOOD_LABELS, "the file has more than 8"),
        (header(2**32 - 1, 28, 28) + bytes(9), GOOD_LABELS, "the file has 9 of"),
        (header(0, 2, 2), GOOD_LABELS, "has no images"),
        (header(3, 2, 2) + bytes(12), GOOD_LABELS, "2 labels, but"),
        (gzip.compress(header(2, 2, 2) + bytes(8), mtime=0)[:-6], GOOD_LABELS, "cannot be read"),
    ],
)
def test_an_error_in_an_idx_file(
    tmp_path: Path, images: bytes, labels: bytes, message: str
) -> None:
    path = write_idx(tmp_path, images, labels)
    with pytest.raises(DataError, match=message):
        read(path)


def test_idx_images_without_labels(tmp_path: Path) -> None:
    path = write_idx(tmp_path, header(2, 2, 2) + bytes(8), b"")
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataNotFound, match="no labels for"):
        read(path)
    assert read_dataset(str(path), "train", ()).count == 2
    with pytest.raises(DataNotFound, match="has no file t10k-images"):
        read_dataset(str(tmp_path), "test", LABEL)


@cases(300)
@given(st.binary(max_size=60), st.binary(max_size=20), st.booleans())
def test_any_bytes_in_idx_files(tmp_path: Path, images: bytes, labels: bytes, real: bool) -> None:
    head = header(2, 2, 2) if real else b""
    path = write_idx(tmp_path, head + images, labels)
    with np.errstate(all="raise"), only(DataError, DataNotFound):
        read(path)


@cases(1000)
@given(st.text(alphabet='xk,\n\r\t 01.-e"ab;', max_size=60))
def test_any_text_in_a_csv_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    with only(DataError, DataNotFound):
        read(path)


@cases(1000)
@given(position=st.integers(0, 600), byte=st.integers(0, 255), cut=st.integers(0, 600))
def test_any_damage_to_a_parquet_file(tmp_path: Path, position: int, byte: int, cut: int) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"x": [1.0, 2.0], "kind": [0, 1]}), path)
    content = bytearray(path.read_bytes())
    content[position % len(content)] = byte
    path.write_bytes(content[: max(1, len(content) - cut)] if cut < 300 else content)
    with only(DataError, DataNotFound):
        read(path)


def test_predictions_are_written_atomically(tmp_path: Path) -> None:
    columns = {"prediction": np.array(["a", "b"], dtype=object), "p": np.array([0.5, 0.25])}
    for name in ("out.csv", "out.parquet"):
        write_columns(tmp_path / name, columns)
    assert csv.read_csv(tmp_path / "out.csv").to_pydict() == {
        "prediction": ["a", "b"],
        "p": [0.5, 0.25],
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.parquet"]
    with pytest.raises(JobError, match=r"a .parquet or a .csv file"):
        write_columns(tmp_path / "out.xlsx", columns)
    with pytest.raises(JobError, match="there is no folder"):
        write_columns(tmp_path / "nowhere" / "out.csv", columns)
