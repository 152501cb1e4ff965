"""Parquet, CSV, Arrow and Feather files as Arrow tables, with every fault told in our words."""

import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv, ipc, parquet

from sumgrad.jobs.data.readers.csv import CsvSource
from sumgrad.jobs.data.readers.size_limits import arrow_bytes, parquet_bytes, parquet_texts
from sumgrad.jobs.errors import DataError, DataNotFound
from sumgrad.jobs.support.memory import available_bytes, check_memory_for_rows

_PARQUET = (".parquet", ".pq")
_CSV = {".csv": ",", ".tsv": "\t"}
_ARROW = (".arrow", ".feather", ".ipc")
#: What an Arrow file begins with, before what its streaming form has too.
_ARROW_MAGIC = b"ARROW1\0\0"
KNOWN = "Parquet, CSV, TSV, Arrow and Feather files, by their endings"


def is_table(path: Path) -> bool:
    """Whether the ending is that of a table."""
    return _ending(path) in (*_PARQUET, *_CSV, *_ARROW)


def _ending(path: Path) -> str:
    """The file's ending; for a compressed CSV file that of the CSV."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if len(suffixes) > 1 and suffixes[-1] == ".gz":
        return suffixes[-2]
    return suffixes[-1] if suffixes else ""


def read_table(path: Path) -> pa.Table:
    """A file's rows.

    Raises:
        DataNotFound: No such file, or of no known format.
        DataError: Empty, damaged, too large for memory, or with a column's name given twice.
    """
    file = str(path)
    if not path.is_file():
        raise DataNotFound(f"there is no file {path}")
    if not is_table(path):
        raise DataNotFound(f"{path} has no known format", hint=f"known: {KNOWN}")
    if path.stat().st_size == 0:
        raise DataError("is empty", file=file)
    try:
        table = _read(path)
        # A damaged Arrow file can hold offsets that point outside of it.
        table.validate(full=True)
        names = table.column_names
    except (pa.ArrowException, OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        first_line = str(error).partition("\n")[0]
        raise DataError(f"cannot be read: {first_line}", file=file) from None
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise DataError("the column's name is given twice", file=file, column=twice[0])
    if table.num_rows == 0:
        raise DataError("has no rows", file=file)
    return table


def _read(path: Path) -> pa.Table:
    ending = _ending(path)
    if ending in _PARQUET:
        return _read_parquet(path)
    if ending in _CSV:
        return _read_csv(path, _CSV[ending])
    return _read_arrow(path)


def _read_parquet(path: Path) -> pa.Table:
    """A row group at a time, once there is room for what the file's metadata say of all of them.

    Three things are not said there, and can be had in excess by a file that was made for it: a page
    that claims to be larger than its column (two gibibytes at most), a list that claims more items
    than its column has, and texts inside of lists that one dictionary repeats.
    """
    metadata = parquet.read_metadata(path)
    _expect_room(parquet_bytes(metadata, str(path)), path)
    texts = parquet_texts(metadata)
    with parquet.ParquetFile(
        path, page_checksum_verification=True, read_dictionary=texts
    ) as source:
        if not source.num_row_groups:
            return source.schema_arrow.empty_table()
        groups = (source.read_row_group(i) for i in range(source.num_row_groups))
        return pa.concat_tables(_with_room(groups, path))


def _read_arrow(path: Path) -> pa.Table:
    """Batches in the order in which they stand in the file, in either of its two forms.

    The end of the file form lists where its batches are. They are read from its beginning all the
    same: so it is those whose sizes were looked at.
    """
    with pa.OSFile(str(path)) as source:
        is_file = source.read(len(_ARROW_MAGIC)) == _ARROW_MAGIC
        count = ipc.open_file(source).num_record_batches if is_file else None
        start = len(_ARROW_MAGIC) if is_file else 0
        source.seek(start)
        _expect_room(arrow_bytes(source, count), path)
        source.seek(start)
        stream = ipc.open_stream(source)
        batches = _with_room(islice(stream, count), path)
        return pa.Table.from_batches(batches, stream.schema)


def _expect_room(promised: Iterable[int], path: Path) -> None:
    """Raise unless there is room for all that a file promises, one part after the other.

    Raises:
        DataError: There is none.
    """
    free, held = available_bytes(), 0
    for size in promised:
        held += size
        check_memory_for_rows(held, str(path), free=free)


def _with_room(parts: Iterable[Any], path: Path) -> Iterator[Any]:
    """Parts of a table, as long as there is room: not every file promises the truth.

    Raises:
        DataError: There is none.
    """
    free, held = available_bytes(), 0
    for part in parts:
        # A damaged file can hold offsets that point outside of it, and its size is asked there.
        part.validate(full=True)
        held += part.nbytes
        check_memory_for_rows(held, str(path), free=free)
        yield part


def _read_csv(path: Path, delimiter: str) -> pa.Table:
    parse = csv.ParseOptions(delimiter=delimiter)
    try:
        with CsvSource(path, delimiter) as source:
            return csv.read_csv(source, parse_options=parse)
    except pa.ArrowInvalid as error:
        if "Expected" in str(error) and "columns" in str(error):
            _raise_at_ragged_row(path, delimiter)
        if "conversion error" in str(error):
            return _read_csv_as_texts(path, parse)
        raise


def _raise_at_ragged_row(path: Path, delimiter: str) -> None:
    """Read again in one thread: only so does Arrow know which row has too few or too many values.

    Raises:
        DataError: Names the row.
    """
    ragged: list[csv.InvalidRow] = []

    def note(row: csv.InvalidRow) -> str:
        ragged.append(row)
        return "error"

    parse = csv.ParseOptions(delimiter=delimiter, invalid_row_handler=note)
    try:
        with CsvSource(path, delimiter) as source:
            csv.read_csv(source, csv.ReadOptions(use_threads=False), parse)
    except pa.ArrowInvalid:
        if not ragged:
            raise
    if ragged:
        row = ragged[0]
        raise DataError(
            f"{row.actual_columns} values, but the file has {row.expected_columns} columns",
            file=str(path),
            row=row.number - 1,
        )


def _read_csv_as_texts(path: Path, parse: csv.ParseOptions) -> pa.Table:
    """The rows where a text stands far below numbers: as texts, the column tells where it is."""
    with (
        CsvSource(path, parse.delimiter) as source,
        csv.open_csv(source, parse_options=parse) as reader,
    ):
        texts = dict.fromkeys(reader.schema.names, pa.string())
    options = csv.ConvertOptions(column_types=texts, strings_can_be_null=True)
    with CsvSource(path, parse.delimiter) as source:
        return _numbers_again(csv.read_csv(source, parse_options=parse, convert_options=options))


def _numbers_again(table: pa.Table) -> pa.Table:
    """Columns of texts as numbers where all of them are."""
    columns = [_number_again(column) for column in table.columns]
    return pa.Table.from_arrays(columns, table.column_names)


def _number_again(column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return column.cast(pa.float64())
    except pa.ArrowInvalid:
        return column
