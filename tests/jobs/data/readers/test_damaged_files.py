"""Damaged files of every format raise only our errors, and take no memory."""

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from sumgrad.jobs.data.readers import guard
from sumgrad.jobs.data.readers.idx import read_array
from sumgrad.jobs.data.readers.sources import read_dataset
from sumgrad.jobs.errors import DataError, DataNotFound
from sumgrad.jobs.support import memory
from tests.fuzzing import cases, only
from tests.jobs.data.cases import outputs, prepared, write_csv

IMAGES = bytes([0, 0, 8, 3]) + struct.pack(">3I", 3, 2, 2) + bytes(range(12))


def read(path: Path) -> None:
    read_dataset(str(path), "train", ("label",))


@cases(300)
@given(st.integers(0, 200), st.integers(0, 255), st.integers(0, 60), st.booleans())
def test_any_damage_to_an_idx_file(
    tmp_path: Path, position: int, byte: int, cut: int, packed: bool
) -> None:
    content = bytearray(gzip.compress(IMAGES, mtime=0) if packed else IMAGES)
    content[position % len(content)] = byte
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content[: len(content) - cut])
    with only(DataError):
        assert read_array(path, dimensions=3).ndim == 3


@cases(1000)
@given(
    position=st.integers(0, 2000),
    byte=st.integers(0, 255),
    cut=st.integers(0, 2000),
    packed=st.booleans(),
)
def test_any_damage_to_an_arrow_file(
    tmp_path: Path, position: int, byte: int, cut: int, packed: bool
) -> None:
    path = tmp_path / "rows.arrow"
    labels = pa.array(["a", "b"])
    table = pa.table(
        {"x": [[1.0, 2.0], [3.0, 4.0]], "label": labels.dictionary_encode() if packed else labels}
    )
    options = ipc.IpcWriteOptions(compression="lz4" if packed else None)
    with ipc.new_file(str(path), table.schema, options=options) as writer:
        writer.write_table(table)
    content = bytearray(path.read_bytes())
    content[position % len(content)] = byte
    path.write_bytes(content[: max(1, len(content) - cut)] if cut < 1000 else content)
    with only(DataError, DataNotFound):
        read(path)


@cases(1000)
@given(
    ends=st.booleans(), position=st.integers(0, 4000), byte=st.integers(0, 255), lists=st.booleans()
)
def test_any_damage_to_a_parquet_file(
    tmp_path: Path, ends: bool, position: int, byte: int, lists: bool
) -> None:
    """PyArrow ends the process if it is asked for metadata of columns that are damaged."""
    path = tmp_path / "rows.parquet"
    x = [[1.0, 2.0], [3.0]] if lists else [1.0, 2.0]
    table = pa.table({"x": x * 5, "label": ["a", "b"] * 5})
    parquet.write_table(table, path, row_group_size=4, compression="zstd")
    content = bytearray(path.read_bytes())
    content[position % len(content)] = byte
    path.write_bytes(content[: len(content) - position % 50] if ends else content)
    with only(DataError, DataNotFound):
        read(path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_header_of_terabytes_allocates_nothing(tmp_path: Path, packed: bool) -> None:
    content = bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**32 - 1, 28, 28) + bytes(10)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(gzip.compress(content) if packed else content)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"promises 4294967295 × 28 × 28 values.* has 10 of"):
        read_array(path, dimensions=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


@cases(300)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 2, 3, 28, 2**16, 2**31, 2**32 - 1]), max_size=4),
    kind=st.integers(0, 15),
    dimensions=st.integers(0, 5),
    size=st.integers(0, 40),
    packed=st.booleans(),
)
def test_any_header_of_an_idx_file(
    tmp_path: Path, sizes: list[int], kind: int, dimensions: int, size: int, packed: bool
) -> None:
    head = bytes([0, 0, kind, dimensions]) + struct.pack(f">{len(sizes)}I", *sizes)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(gzip.compress(head + bytes(size)) if packed else head + bytes(size))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x02\1\2")
    with only(DataError, DataNotFound):
        read(path)


class Bomb:
    """A file of a few bytes that would fill memory: 64 MiB, of which a sixteenth is free."""

    SIZE, FREE = 1 << 26, 1 << 22

    def __init__(self, path: Path) -> None:
        self.path = path
        getattr(self, f"_{path.suffix.removeprefix('.')}")()
        assert path.stat().st_size < self.FREE // 8

    def _gz(self) -> None:
        if "idx3" in self.path.name:
            content = bytes([0, 0, 8, 3]) + struct.pack(">3I", self.SIZE >> 8, 16, 16)
            content += bytes(self.SIZE)
        else:
            content = b"x,label\n" + b"1,2\n" * (self.SIZE // 4)
        self.path.write_bytes(gzip.compress(content, 1))

    def _parquet(self) -> None:
        with parquet.ParquetWriter(self.path, self._table().schema) as writer:
            writer.write_table(self._table())

    def _arrow(self) -> None:
        table, packed = self._table(), ipc.IpcWriteOptions(compression="zstd")
        with ipc.new_file(str(self.path), table.schema, options=packed) as writer:
            writer.write_table(table, max_chunksize=1 << 16)

    def _table(self) -> pa.Table:
        numbers = np.zeros(self.SIZE // 16)
        return pa.table({"x": numbers, "label": numbers})


@pytest.mark.parametrize(
    "name", ["train-images-idx3-ubyte.gz", "rows.csv.gz", "rows.parquet", "rows.arrow"]
)
def test_a_bomb_is_not_decompressed(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = Bomb(tmp_path / name)
    monkeypatch.setattr(memory, "_available_on_machine", lambda: Bomb.FREE)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    with pytest.raises(DataError, match=r"rows take more than .* of memory free") as caught:
        read(bomb.path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.file == str(bomb.path)
    # The first chunk of an IDX file has 16 MiB.
    assert peak < Bomb.SIZE
    assert pa.total_allocated_bytes() - before < Bomb.SIZE


def test_rows_that_fit_as_read_but_not_scaled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_csv(tmp_path / "rows.csv", "x,label", *["1,a", "2,b"] * 500)
    monkeypatch.setattr(guard, "available_bytes", lambda: 1 << 30)
    monkeypatch.setattr(memory, "available_bytes", lambda: 4000)
    with pytest.raises(DataError, match=r"this machine has 0\.0 GiB of memory free"):
        prepared(outputs(2), train=path)


def test_the_labels_file_in_place_of_the_images(tmp_path: Path) -> None:
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x01\x07"))
    with pytest.raises(DataNotFound, match="holds labels; name the images file"):
        read(path)


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_truncated_gzip_csv(tmp_path: Path, cut: int) -> None:
    lines = "".join(f"{i * 7919 % 997},{i % 2}\n" for i in range(500))
    packed = gzip.compress(f"x,label\n{lines}".encode(), mtime=0)
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(packed[: len(packed) - cut])
    with pytest.raises(DataError, match=r"rows\.csv\.gz: cannot be read") as caught:
        read(path)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("ending", ["parquet", "arrow", "feather", "csv.gz"])
def test_other_content_under_the_ending(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    path.write_bytes(b"\x1f\x8b this is nothing of the kind")
    with pytest.raises(DataError, match="cannot be read"):
        read(path)


def test_a_ragged_row_below_the_first_block(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", "x,label", *["1,2"] * 400_000, "3")
    with pytest.raises(DataError, match="1 values, but the file has 2 columns") as caught:
        read(path)
    assert caught.value.row == 400_001


def test_a_header_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"x,\xff\n1,2\n")
    with pytest.raises(DataError, match="cannot be read"):
        read(path)


def test_markers_and_hidden_files_are_ignored(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", "x,label", "1,2")
    for name in ("_SUCCESS", ".hidden.csv", "_part.csv"):
        (tmp_path / name).write_text("")
    for source in (tmp_path, tmp_path / "*"):
        assert read_dataset(str(source), "train", ("label",)).count == 1


def test_a_number_too_large_for_a_class(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", "x,label", "1,1", "2,1e300")
    with pytest.raises(DataError, match="row 2") as caught:
        read(path)
    assert caught.value.column == "label"


def test_an_error_inside_a_list_names_the_row_of_the_list(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    table = pa.table({"x": [[1.0, 2.0], [3.0, float("nan")]], "label": ["a: b", "c"]})
    with ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match=r"column 'x', row 2: nan is not a finite number"):
        read(path)
