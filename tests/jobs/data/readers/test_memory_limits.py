"""Small files with huge content are refused before the content is in memory.

The files are read in another process, which measures how much memory it needed.
"""

import gzip
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from sumgrad.jobs.data.columns import rows_of_table
from sumgrad.jobs.data.readers.arrow import batch_sizes
from sumgrad.jobs.data.readers.sources import read_dataset
from sumgrad.jobs.data.readers.tables import read_table
from sumgrad.jobs.errors import DataError, DataNotFound, SpecError
from sumgrad.jobs.support import memory
from tests.jobs.data.cases import outputs, prepared, write_csv

#: Bytes of content of each file, free memory, and the limit of memory for reading.
SIZE, FREE, LIMIT = 1 << 27, 1 << 25, 1 << 26

#: Reads files; prints the errors, and by how many bytes the memory of the process has grown.
READER = f"""
import json, os, sys
from sumgrad.jobs.support import memory
from sumgrad.jobs.data import columns
from sumgrad.jobs.data.readers import tables
from sumgrad.jobs.data.readers.sources import read_dataset
from sumgrad.jobs.errors import DataError

def used(name="VmHWM"):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

memory._available_on_machine = lambda: {FREE}
results = []
for path in sys.argv[1:]:
    open("/proc/self/clear_refs", "w").write("5")  # VmHWM starts again.
    before = used("VmRSS")
    try:
        read_dataset(path, "train", ("label",))
    except DataError as error:
        results.append([error.message, used() - before])
print(json.dumps(results), flush=True)
os._exit(0)  # A thread of Arrow may still be in Python code.
"""


def zeros(count: int) -> pa.Array:
    return pa.array(np.zeros(count))


def wide_parquet(path: Path) -> None:
    """One row group of a thousand columns."""
    column = zeros(SIZE // 8 // 1000)
    names = [f"x{i}" for i in range(1000)]
    table = pa.table([column] * 1000, names).append_column("label", column)
    parquet.write_table(table, path, compression="zstd")


def list_parquet(path: Path) -> None:
    """Ten thousand lists of many items."""
    ends = np.linspace(0, SIZE // 8, 10_001).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(ends), zeros(SIZE // 8))
    table = pa.table({"x": lists, "label": zeros(10_000)})
    parquet.write_table(table, path, compression="zstd")


def text_parquet(path: Path) -> None:
    """A mebibyte of text, named by every row."""
    rows = SIZE >> 20
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows), ["x" * (1 << 20)])
    table = pa.table({"x": zeros(rows), "label": text})
    parquet.write_table(table, path, compression="zstd", store_schema=False)


def one_batch(path: Path) -> None:
    _write_ipc(ipc.new_file, path, pa.table({"x": zeros(SIZE // 8), "label": zeros(SIZE // 8)}))


def one_batch_in_a_stream(path: Path) -> None:
    _write_ipc(ipc.new_stream, path, pa.table({"x": zeros(SIZE // 8), "label": zeros(SIZE // 8)}))


def large_dictionary(path: Path) -> None:
    text = pa.DictionaryArray.from_arrays(pa.array([0, 0]), ["x" * SIZE])
    _write_ipc(ipc.new_file, path, pa.table({"x": zeros(2), "label": text}))


def looked_up_often(path: Path) -> None:
    rows = SIZE >> 20
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows), ["x" * (1 << 20)])
    _write_ipc(ipc.new_file, path, pa.table({"x": zeros(rows), "label": text}))


def bits(path: Path) -> None:
    """A bit each in the file; the one number beside them makes numbers of 64 of all."""
    count = 1 << 18
    flags = pa.array(np.zeros(count, dtype=bool))
    columns = {f"x{i}": flags for i in range(SIZE // 8 // count)}
    halves = pa.array(np.zeros(count, dtype=np.float64))
    _write_ipc(ipc.new_file, path, pa.table(columns | {"y": halves, "label": flags}))


def nothing_at_all(path: Path) -> None:
    """Lists of missing values, which take no memory as long as they are missing."""
    kind = pa.list_(pa.null(), 1 << 30)
    empty = pa.FixedSizeListArray.from_arrays(pa.nulls(1 << 30), type=kind)
    _write_ipc(ipc.new_file, path, pa.table({"x": empty, "label": zeros(1)}))


def _write_ipc(writer: Callable[..., ipc.RecordBatchFileWriter], path: Path, t: pa.Table) -> None:
    packed = ipc.IpcWriteOptions(compression="zstd")
    with writer(str(path), t.schema, options=packed) as file:
        file.write_table(t)


def plain_csv(path: Path) -> None:
    path.write_bytes(b"x,label\n" + b"1,2\n" * (1 << 23))


def empty_csv(path: Path) -> None:
    """A byte for a value that takes eight."""
    path.write_bytes(b"," * 99 + b"label\n" + (b"," * 99 + b"1\n") * (SIZE // 800))


def packed_csv(path: Path) -> None:
    path.write_bytes(gzip.compress(b"x,label\n" + b"1,2\n" * (SIZE // 4), 1))


def names_of_pixels(path: Path) -> None:
    head = bytes([0, 0, 8, 3]) + struct.pack(">3I", 1, 1, SIZE // 80)
    path.write_bytes(gzip.compress(head + bytes(SIZE // 80), 1))
    path.with_name("train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x01\1")


BOMBS: dict[Callable[[Path], None], str] = {
    wide_parquet: "rows.parquet",
    list_parquet: "rows.parquet",
    text_parquet: "rows.parquet",
    one_batch: "rows.arrow",
    one_batch_in_a_stream: "rows.arrow",
    large_dictionary: "rows.arrow",
    looked_up_often: "rows.arrow",
    bits: "rows.feather",
    nothing_at_all: "rows.arrow",
    plain_csv: "rows.csv",
    empty_csv: "rows.csv",
    packed_csv: "rows.csv.gz",
    names_of_pixels: "train-images-idx3-ubyte.gz",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, int]]:
    """Error and growth of memory for each file, by its path's folder."""
    paths = []
    for write, name in BOMBS.items():
        path = tmp_path_factory.mktemp(write.__name__, numbered=False) / name
        write(path)
        paths.append(str(path))
    command = [sys.executable, "-c", READER, *paths]
    read = subprocess.run(command, capture_output=True, text=True, check=False)
    assert read.returncode == 0, read.stderr
    return dict(zip((write.__name__ for write in BOMBS), json.loads(read.stdout), strict=True))


@pytest.mark.parametrize("name", [write.__name__ for write in BOMBS])
def test_huge_content_of_a_small_file_is_not_read(
    name: str, results: dict[str, tuple[str, int]]
) -> None:
    message, grown = results[name]
    assert f"/{name}/" in message
    expected = "is missing" if name == "nothing_at_all" else "GiB of memory free"
    assert expected in message
    assert grown < LIMIT


def of_many_kinds() -> pa.Table:
    texts = ["a", "b", None, "long " * 20] * 500
    return pa.table(
        {
            "label": texts,
            "dotted.name": texts,
            "large": pa.array(texts, pa.large_string()),
            "bytes": pa.array([b"\xff"] * 2000),
            "coded": pa.array(texts).dictionary_encode(),
            "flag": [True, None] * 1000,
            "small": pa.array(range(2000), pa.int16()),
            "when": pa.array(range(2000), pa.timestamp("us")),
            "decimal": pa.array(range(2000)).cast(pa.decimal128(30, 2)),
            "list": [[1.0, 2.0, 3.0]] * 2000,
            "lists": [[[1], []]] * 2000,
            "tags": [["a", "b"]] * 2000,
            "map": pa.array([{"a": 1, "b": {"c": "x"}}] * 2000),
            "half": pa.array(np.zeros(2000, np.float16)),
        }
    )


@pytest.mark.parametrize("rows", [7, 300, 5000])
def test_parquet_columns_of_all_types_are_read_unchanged(tmp_path: Path, rows: int) -> None:
    path, table = tmp_path / "rows.parquet", of_many_kinds()
    parquet.write_table(table, path, row_group_size=rows)
    read = read_table(path)
    assert read.column_names == table.column_names
    for name in table.column_names:
        assert read[name].to_pylist() == table[name].to_pylist(), name


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
@pytest.mark.parametrize("writer", [ipc.new_file, ipc.new_stream])
def test_the_sizes_in_an_arrow_file_are_those_in_memory(
    tmp_path: Path, compression: str | None, writer: Callable[..., ipc.RecordBatchFileWriter]
) -> None:
    path, table = tmp_path / "rows.arrow", of_many_kinds()
    options = ipc.IpcWriteOptions(compression=compression)
    with writer(str(path), table.schema, options=options) as file:
        file.write_table(table, max_chunksize=300)
    with pa.OSFile(str(path)) as source:
        source.seek(8 if writer is ipc.new_file else 0)
        size = sum(batch_sizes(source, 7 if writer is ipc.new_file else None))
    read = read_table(path)
    assert read.equals(table)
    # A buffer of an uneven number of bytes is padded to eight.
    assert read.nbytes * 0.9 < size < read.nbytes * 1.1 + (1 << 16)


def test_an_arrow_file_whose_end_lists_other_batches(tmp_path: Path) -> None:
    table, paths = pa.table({"x": [1, 2], "label": [1, 2]}), []
    for batches in (1, 2):
        paths.append(tmp_path / f"{batches}.arrow")
        with ipc.new_file(str(paths[-1]), table.schema) as file:
            for _ in range(batches):
                file.write_table(table)
    one, two = (path.read_bytes() for path in paths)
    body = one[: one.rindex(b"\xff\xff\xff\xff\0\0\0\0") + 8]
    (size,) = struct.unpack("<i", two[-10:-6])
    path = tmp_path / "odd.arrow"
    path.write_bytes(body + two[-10 - size :])
    with pytest.raises(DataError, match=r"1 batches, but the file's end lists 2"):
        read_table(path)


def test_a_csv_column_whose_type_shows_in_a_later_block(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", "x,label", *["1,a"] * 400_000, "1.5,b")
    read = read_dataset(str(path), "train", ("label",))
    assert read.x.dtype == np.float64
    assert read.x[-1, 0] == 1.5


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_csv_file_is_read_until_memory_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delimiter: str
) -> None:
    ending = "csv" if delimiter == "," else "tsv"
    path = write_csv(tmp_path / f"rows.{ending}", f"x{delimiter}label", *[f"1{delimiter}2"] * 1000)
    # A thousand lines and one, of two values, of eight bytes each; and twice as much for the copy.
    monkeypatch.setattr(memory, "_available_on_machine", lambda: 2 * 16 * 1001)
    assert read_dataset(str(path), "train", ("label",)).count == 1000
    monkeypatch.setattr(memory, "_available_on_machine", lambda: 2 * 16 * 1001 - 2)
    with pytest.raises(DataError, match=r"rows take more than .* of memory free"):
        read_dataset(str(path), "train", ("label",))


def test_the_names_of_a_list_s_items_need_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = pa.array([np.zeros(1000, np.int8)])
    table = pa.table({"x": lists, "label": [1]})
    monkeypatch.setattr(memory, "_available_on_machine", lambda: 100_000)
    with pytest.raises(DataError, match="names of its 1,000 features take"):
        rows_of_table(table, "f", None, ("label",), numeric_labels=False)


def test_one_hot_targets_need_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_csv(tmp_path / "rows.csv", "x,label", *[f"1,{i}" for i in range(300)])
    needed = 4 * 300 * 301
    monkeypatch.setattr(memory, "_available_on_machine", lambda: 2 * needed)
    prepared(outputs(300, "l2"), train=path, task="classification")
    monkeypatch.setattr(memory, "_available_on_machine", lambda: 2 * needed - 2)
    with pytest.raises(DataError, match="of memory free"):
        prepared(outputs(300, "l2"), train=path, task="classification")


@pytest.mark.timeout(60)
def test_many_columns_are_read_in_linear_time(tmp_path: Path) -> None:
    names = [f"x{i}" for i in range(20_000)]
    path = write_csv(tmp_path / "rows.csv", ",".join([*names, "label"]), ",".join(["1"] * 20_001))
    assert read_dataset(str(path), "train", ("label",)).x.shape == (1, 20_000)


@pytest.mark.timeout(60)
def test_many_classes_are_split_in_linear_time(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", "x,label", *[f"1,{i}" for i in range(50_000)])
    layers = {"layers": [{"units": 1, "activation": "sigmoid"}]}
    with pytest.raises(
        SpecError, match=r"data\.validation: 0\.5 of 50000 rows is not a single row"
    ):
        prepared(layers, train=path, validation=0.5, positive=7)


def test_a_long_label_is_in_memory_once(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", "x,label", "1," + "x" * 500_000, *["2,b"] * 2000)
    assert prepared(outputs(2), train=path, validation=0.5).train.count


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "name",
    ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz", "rows.csv", "rows.parquet", "rows"],
)
def test_pipes_and_devices_are_not_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    os.mkfifo(path)
    with pytest.raises(DataNotFound):
        read_dataset(str(path), "train", ("label",))
    with pytest.raises(DataNotFound):
        read_dataset(str(tmp_path), "train", ("label",))
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(DataNotFound):
        read_dataset(str(path), "train", ("label",))
