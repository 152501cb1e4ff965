"""Every format that training takes gives the same rows."""

import gzip
import struct
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyarrow import csv, feather, ipc, parquet

from sumgrad.jobs.data.dataset import RawDataset, locate
from sumgrad.jobs.data.readers.sources import read_dataset
from sumgrad.model.validation import Array

LABEL = ("kind",)
X = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]])
KINDS = ["a", "b", "a", "b"]


def table() -> pa.Table:
    return pa.table({"x": X[:, 0], "y": X[:, 1], "kind": KINDS})


def write_arrow_file(table: pa.Table, path: Path) -> None:
    with ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def write_arrow_stream(table: pa.Table, path: Path) -> None:
    with ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)


def write_gzip_csv(table: pa.Table, path: Path) -> None:
    with gzip.open(path, "wb") as file:
        csv.write_csv(table, file)


def write_tsv(table: pa.Table, path: Path) -> None:
    csv.write_csv(table, path, csv.WriteOptions(delimiter="\t"))


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    "rows.parquet": parquet.write_table,
    "rows.csv": csv.write_csv,
    "rows.csv.gz": write_gzip_csv,
    "rows.tsv": write_tsv,
    "rows.feather": feather.write_feather,
    "rows.arrow": write_arrow_file,
    "stream.arrow": write_arrow_stream,
}


def check(rows: RawDataset) -> None:
    """The rows are those above."""
    np.testing.assert_array_equal(rows.x, X)
    assert rows.labels is not None
    assert rows.labels.tolist() == KINDS
    assert rows.features == ("x", "y")


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_a_file_of_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](table(), path)
    check(read_dataset(str(path), "train", LABEL))


def test_a_folder_and_a_glob_give_their_files_in_the_order_of_names(tmp_path: Path) -> None:
    parquet.write_table(table().slice(2), tmp_path / "b.parquet")
    csv.write_csv(table().slice(0, 2), tmp_path / "a.csv")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".hidden.csv").write_text("nonsense")
    (tmp_path / "notes.txt").write_text("no data")
    rows = read_dataset(str(tmp_path), "train", LABEL)
    check(rows)
    assert locate(rows.spans, 3) == (str(tmp_path / "b.parquet"), 2)
    parquet.write_table(table().slice(0, 2), tmp_path / "a.parquet")
    check(read_dataset(f"{tmp_path}/*.parquet", "train", LABEL))


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.large_list(pa.int16()), pa.list_(pa.float64(), 2)], ids=str
)
def test_a_list_column_holds_all_features(tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array(X.astype(int).tolist(), kind)
    parquet.write_table(pa.table({"pixels": column, "kind": KINDS}), tmp_path / "l.parquet")
    rows = read_dataset(str(tmp_path / "l.parquet"), "train", LABEL)
    np.testing.assert_array_equal(rows.x, X)
    assert rows.list_column == "pixels"
    assert len(rows.features) == 2


def test_features_are_chosen_by_name_and_in_that_order(tmp_path: Path) -> None:
    csv.write_csv(table(), tmp_path / "rows.csv")
    rows = read_dataset(str(tmp_path / "rows.csv"), "train", LABEL, ("y",))
    np.testing.assert_array_equal(rows.x, X[:, 1:])


def test_booleans_decimals_and_dictionaries_are_numbers_and_labels(tmp_path: Path) -> None:
    columns = {
        "flag": pa.array([True, False]),
        "price": pa.array([Decimal("1.50"), Decimal("2.25")]),
        "kind": pa.array(["a", "b"]).dictionary_encode(),
    }
    parquet.write_table(pa.table(columns), tmp_path / "rows.parquet")
    rows = read_dataset(str(tmp_path / "rows.parquet"), "train", LABEL)
    assert rows.x.tolist() == [[1.0, 1.5], [0.0, 2.25]]
    assert rows.labels is not None
    assert rows.labels.tolist() == ["a", "b"]


def test_whole_numbers_stored_as_floats_are_classes(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"x": [1, 2], "kind": [3.0, 4.0]}), tmp_path / "rows.parquet")
    rows = read_dataset(str(tmp_path / "rows.parquet"), "train", LABEL)
    assert rows.labels is not None
    assert rows.labels.tolist() == [3, 4]
    assert rows.labels.dtype == np.int64


@pytest.mark.parametrize("as_list", [True, False])
def test_a_regression_may_have_several_targets(tmp_path: Path, as_list: bool) -> None:
    columns: dict[str, object] = {"x": [1.0, 2.0]}
    columns |= {"t": [[1, 2], [3, 4]]} if as_list else {"t": [1, 3], "u": [2, 4]}
    parquet.write_table(pa.table(columns), tmp_path / "rows.parquet")
    label = ("t",) if as_list else ("t", "u")
    rows = read_dataset(str(tmp_path / "rows.parquet"), "train", label, numeric_labels=True)
    assert rows.labels is not None
    assert rows.labels.tolist() == [[1, 2], [3, 4]]
    assert rows.features == ("x",)


def idx(array: NDArray[np.uint8]) -> bytes:
    """An array as an IDX file."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_by_name_and_by_folder(tmp_path: Path, packed: bool) -> None:
    generator = np.random.default_rng(0)
    for role, count in (("train", 5), ("t10k", 3)):
        images = generator.integers(0, 256, (count, 4, 3)).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", images[:, 0, 0])):
            path = tmp_path / f"{role}-{kind}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    train = read_dataset(str(tmp_path), "train", LABEL)
    test = read_dataset(str(tmp_path), "test", LABEL)
    assert (train.count, test.count) == (5, 3)
    assert test.image_shape == (4, 3)
    assert test.x.dtype == np.uint8
    np.testing.assert_array_equal(test.labels, images[:, 0, 0])
    np.testing.assert_array_equal(test.x, images.reshape(3, 12))
    ending = ".gz" if packed else ""
    by_name = read_dataset(str(tmp_path / f"t10k-images-idx3-ubyte{ending}"), "train", LABEL)
    np.testing.assert_array_equal(by_name.x, test.x)


def test_the_shipped_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_diabetes, load_digits

    rows = read_dataset("digits", "train", ("digit",))
    x, y = load_digits(return_X_y=True)
    np.testing.assert_array_equal(rows.x, x)
    np.testing.assert_array_equal(rows.labels, y)
    patients = read_dataset("diabetes", "train", ("progression",), numeric_labels=True)
    raw: tuple[Array, Array] = load_diabetes(return_X_y=True, scaled=False)
    np.testing.assert_array_equal(patients.x, raw[0])
    np.testing.assert_array_equal(patients.labels, raw[1][:, None])
