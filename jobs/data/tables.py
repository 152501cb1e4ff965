"""Parquet, CSV, Arrow and Feather files as Arrow tables, with every fault told in our words."""

import gzip
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, ipc, parquet

from jobs.errors import DataError, DataNotFound
from jobs.room import available_bytes, expect_room_for_rows

_PARQUET = (".parquet", ".pq")
_CSV = {".csv": ",", ".tsv": "\t"}
_ARROW = (".arrow", ".feather", ".ipc")
#: Rows that are read before there is a look at how much memory is left, and bytes.
_BATCH_ROWS, _CHUNK = 1 << 16, 1 << 24
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
        DataError: Empty, damaged, or with a column's name given twice.
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
    except (pa.ArrowException, OSError, EOFError, ValueError, zlib.error) as error:
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
        with parquet.ParquetFile(path, page_checksum_verification=True) as source:
            return _table(source.iter_batches(_BATCH_ROWS), source.schema_arrow, path)
    if ending in _CSV:
        return _read_csv(path, _CSV[ending])
    with pa.OSFile(str(path)) as source:
        try:
            reader = ipc.open_file(source)
        except pa.ArrowInvalid:
            # Arrow's streaming form has the same ending as its file form.
            source.seek(0)
            stream = ipc.open_stream(source)
            return _table(stream, stream.schema, path)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        return _table(batches, reader.schema, path)


def _table(batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> pa.Table:
    """Batches as one table, as long as there is room: a few bytes can stand for billions of rows.

    Raises:
        DataError: There is none.
    """
    return pa.Table.from_batches(_with_room(batches, path), schema)


def _with_room(batches: Iterable[pa.RecordBatch], path: Path) -> Iterator[pa.RecordBatch]:
    free, held = available_bytes(), 0
    for batch in batches:
        held += batch.nbytes
        expect_room_for_rows(held, str(path), free=free)
        yield batch


def _read_csv(path: Path, delimiter: str) -> pa.Table:
    if path.suffix.lower() == ".gz":
        _expect_room_unpacked(path)
    parse = csv.ParseOptions(delimiter=delimiter)
    try:
        return csv.read_csv(path, parse_options=parse)
    except pa.ArrowInvalid as error:
        if "Expected" in str(error) and "columns" in str(error):
            _raise_at_ragged_row(path, delimiter)
        if "conversion error" in str(error):
            return _read_csv_as_texts(path, parse)
        raise


def _expect_room_unpacked(path: Path) -> None:
    """Raise if a packed file holds more than memory does; Arrow would unpack all of it."""
    free, held = available_bytes(), 0
    with gzip.open(path) as file:
        while chunk := file.read(_CHUNK):
            held += len(chunk)
            expect_room_for_rows(held, str(path), free=free)


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
        csv.read_csv(path, csv.ReadOptions(use_threads=False), parse)
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
    with csv.open_csv(path, parse_options=parse) as reader:
        texts = dict.fromkeys(reader.schema.names, pa.string())
    options = csv.ConvertOptions(column_types=texts, strings_can_be_null=True)
    return _numbers_again(csv.read_csv(path, parse_options=parse, convert_options=options))


def _numbers_again(table: pa.Table) -> pa.Table:
    """Columns of texts as numbers where all of them are."""
    for index, name in enumerate(table.column_names):
        try:
            table = table.set_column(index, name, table.column(index).cast(pa.float64()))
        except pa.ArrowInvalid:
            continue
    return table
