"""Read CSV and TSV files, plain or gzip, block by block."""

import gzip
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from sumgrad.jobs.data.columns import INT64_END
from sumgrad.jobs.data.readers.guard import ReadGuard
from sumgrad.jobs.errors import DataError

_VALUE_BYTES = 8  #: Bytes of a value as a number, however short its text is.
#: Arrow needs the header, and each row, in one block. Larger blocks are tried if they do not fit.
_MIN_BLOCK_BYTES, _MAX_BLOCK_BYTES = 1 << 20, 1 << 28
_MAX_DIGITS = 76  #: Of Arrow's widest integers.
_INTEGER = rf"^[+-]?[0-9]{{1,{_MAX_DIGITS}}}$"


class CsvSource(io.RawIOBase):
    """The text of a CSV file, which raises where memory would not hold the rows so far.

    It counts values by their delimiter, because an empty value takes one byte of the file and eight
    bytes of memory.
    """

    def __init__(self, path: Path, delimiter: str) -> None:
        is_compressed = path.suffix.lower() == ".gz"
        self._file = gzip.GzipFile(path) if is_compressed else path.open("rb")
        self._delimiter = delimiter.encode()
        self._guard = ReadGuard(str(path))

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes; raise `DataError` if the rows so far do not fit into memory."""
        block = self._file.read(-1 if size is None else size)
        lines = max(block.count(b"\n"), block.count(b"\r"))
        values = block.count(self._delimiter) + lines
        self._guard.add(max(len(block), _VALUE_BYTES * values))
        return block

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def read_csv(path: Path, delimiter: str, block_bytes: int = _MIN_BLOCK_BYTES) -> pa.Table:
    """Return all rows of a CSV file; the types of its columns are inferred.

    Raises:
        DataError: A row has too few or too many values, or the rows do not fit into memory.
        ArrowException, OSError, EOFError, zlib.error: The file is damaged.
    """
    try:
        return _read(path, delimiter, block_bytes)
    except pa.ArrowInvalid as error:
        # The second message is Arrow's for a header that does not end in the first block.
        is_too_long = "straddling" in str(error) or "Empty CSV file" in str(error)
        if not is_too_long or block_bytes >= _MAX_BLOCK_BYTES:
            raise
    return read_csv(path, delimiter, block_bytes << 4)


def _read(path: Path, delimiter: str, block_bytes: int) -> pa.Table:
    options = csv.ReadOptions(block_size=block_bytes)
    parse = csv.ParseOptions(delimiter=delimiter)
    try:
        with CsvSource(path, delimiter) as source:
            table = csv.read_csv(source, options, parse)
    except pa.ArrowInvalid as error:
        if "Expected" in str(error) and "columns" in str(error):
            _raise_at_ragged_row(path, delimiter, block_bytes)
        raise
    large = [i for i, column in enumerate(table.columns) if _may_be_rounded(column)]
    return _with_exact_integers(table, large, path, options, parse) if large else table


def _may_be_rounded(column: pa.ChunkedArray) -> bool:
    """Return whether a column may hold integers above 64 bits, which Arrow reads as float64."""
    if not pa.types.is_floating(column.type):
        return False
    extremes = pc.min_max(column).as_py()
    return any(abs(value or 0) >= INT64_END for value in extremes.values())


def _raise_at_ragged_row(path: Path, delimiter: str, block_bytes: int) -> None:
    """Read again in one thread, because only then does Arrow know the number of the row."""
    ragged: list[csv.InvalidRow] = []

    def keep(row: csv.InvalidRow) -> str:
        ragged.append(row)
        return "error"

    parse = csv.ParseOptions(delimiter=delimiter, invalid_row_handler=keep)
    options = csv.ReadOptions(use_threads=False, block_size=block_bytes)
    try:
        with CsvSource(path, delimiter) as source:
            csv.read_csv(source, options, parse)
    except pa.ArrowInvalid:
        if not ragged:
            raise
        row = ragged[0]
        problem = f"{row.actual_columns} values, but the file has {row.expected_columns} columns"
        raise DataError(problem, file=str(path), row=row.number - 1) from None


def _with_exact_integers(
    table: pa.Table, large: list[int], path: Path, options: csv.ReadOptions, parse: csv.ParseOptions
) -> pa.Table:
    """Read columns again as text, and replace those that hold only integers by decimals."""
    names = [table.column_names[i] for i in large]
    types = dict.fromkeys(names, pa.string())
    convert = csv.ConvertOptions(
        include_columns=names, column_types=types, strings_can_be_null=True
    )
    with CsvSource(path, parse.delimiter) as source:
        texts = csv.read_csv(source, options, parse, convert)
    # Duplicate names are refused later.
    for i, name, column in zip(large, names, texts.columns, strict=False):
        integers = pc.utf8_trim_whitespace(column)
        if pc.all(pc.match_substring_regex(integers, _INTEGER)).as_py():
            table = table.set_column(i, name, integers.cast(pa.decimal256(_MAX_DIGITS, 0)))
    return table
