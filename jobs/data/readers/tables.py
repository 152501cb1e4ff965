"""Read Parquet, CSV, Arrow and Feather files as Arrow tables, with errors that name the file."""

import struct
import zlib
from collections import Counter
from pathlib import Path

import pyarrow as pa

from sumgrad.jobs.data.readers.arrow import read_arrow
from sumgrad.jobs.data.readers.csv import read_csv
from sumgrad.jobs.data.readers.parquet import read_parquet
from sumgrad.jobs.errors import DataError, DataNotFound

_PARQUET = (".parquet", ".pq")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_ARROW = (".arrow", ".feather", ".ipc")
KNOWN_FORMATS = "Parquet, CSV, TSV, Arrow and Feather files, by their endings"


def is_table(path: Path) -> bool:
    """Return whether the ending of a file is that of a table."""
    return _ending(path) in (*_PARQUET, *_DELIMITERS, *_ARROW)


def read_table(path: Path) -> pa.Table:
    """Return all rows of a file; a table without rows if the file has only a header.

    Raises:
        DataNotFound: The file has an unknown format.
        DataError: The file is empty, damaged, too large for memory, or has duplicate columns.
    """
    file, ending = str(path), _ending(path)
    if not is_table(path):
        raise DataNotFound(f"{path} has no known format", hint=f"known: {KNOWN_FORMATS}")
    if path.stat().st_size == 0:
        if ending in _DELIMITERS:
            return pa.table({})
        raise DataError("is empty", file=file)
    try:
        if ending in _PARQUET:
            table = read_parquet(path)
        elif ending in _DELIMITERS:
            table = read_csv(path, _DELIMITERS[ending])
        else:
            table = read_arrow(path)
        # A damaged file can have offsets that point outside of the file.
        table.validate(full=True)
        names = table.column_names
    except (pa.ArrowException, OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        first_line = str(error).partition("\n")[0]
        raise DataError(f"cannot be read: {first_line}", file=file) from None
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError("the column's name is given twice", file=file, column=name)
    return table


def _ending(path: Path) -> str:
    """Return the ending of a file; of a compressed CSV file, the one before .gz."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if len(suffixes) > 1 and suffixes[-1] == ".gz":
        return suffixes[-2]
    return suffixes[-1] if suffixes else ""
