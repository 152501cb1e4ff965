"""Parquet, CSV, Arrow and Feather files as Arrow tables, with every fault told in our words."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, feather, ipc, parquet

from jobs.errors import DataError, DataNotFound

_PARQUET = (".parquet", ".pq")
_CSV = {".csv": ",", ".tsv": "\t"}
_ARROW = (".arrow", ".feather", ".ipc")
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
    except (pa.ArrowException, OSError, UnicodeDecodeError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        raise DataError(f"cannot be read: {first_line}", file=file) from None
    twice = [name for name, times in Counter(table.column_names).items() if times > 1]
    if twice:
        raise DataError("the column's name is given twice", file=file, column=twice[0])
    if table.num_rows == 0:
        raise DataError("has no rows", file=file)
    return table


def _read(path: Path) -> pa.Table:
    ending = _ending(path)
    if ending in _PARQUET:
        return parquet.ParquetFile(path).read()
    if ending in _CSV:
        return _read_csv(path, csv.ParseOptions(delimiter=_CSV[ending]))
    if ending == ".feather":
        return feather.read_table(path)
    with pa.OSFile(str(path)) as source:
        try:
            return ipc.open_file(source).read_all()
        except pa.ArrowInvalid:
            # Arrow's streaming form has the same ending as its file form.
            source.seek(0)
            return ipc.open_stream(source).read_all()


def _read_csv(path: Path, parse: csv.ParseOptions) -> pa.Table:
    try:
        return csv.read_csv(path, parse_options=parse)
    except pa.ArrowInvalid as error:
        if "conversion error" not in str(error):
            raise
        # A text far below numbers. As texts the column tells which row it is.
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
