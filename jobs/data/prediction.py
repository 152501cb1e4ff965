"""Read rows for a trained model, and write its predictions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import DTypeLike, NDArray

from sumgrad.jobs.data.compatibility import check_range, read_like_training
from sumgrad.jobs.data.dataset import RawDataset
from sumgrad.jobs.data.schema import DataSchema
from sumgrad.jobs.errors import JobError
from sumgrad.jobs.support.files import replacing


def read_for_model(
    source: str, schema: DataSchema, dtype: DTypeLike, *, with_labels: bool
) -> RawDataset:
    """Return raw rows with the columns of the model's training, which are finite in its dtype.

    Of a folder of MNIST's files the test rows are read. Labels have to be known in training.

    Raises:
        DataNotFound: The source or a column does not exist.
        DataError: Rows do not fit the model; names file, column and row.
    """
    known = schema.seen if schema.reject is None else (*schema.seen, schema.reject)
    rows = read_like_training(source, "test", schema, known, with_labels=with_labels)
    check_range(rows, schema.scaling, dtype)
    return rows


def check_writable(out: Path) -> None:
    """Raise `JobError` unless the file ends in .parquet or .csv, and its folder exists."""
    if out.suffix not in (".parquet", ".csv"):
        raise JobError(f"{out}: predictions are written to a .parquet or a .csv file")
    if not out.parent.is_dir():
        raise JobError(f"{out} cannot be written: there is no folder {out.parent}")


def write_columns(out: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write columns to a Parquet or CSV file atomically; raise `JobError` if that fails."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    check_writable(out)
    write = {".parquet": parquet.write_table, ".csv": csv.write_csv}[out.suffix]
    try:
        with replacing(out) as partial:
            write(pa.table(dict(columns)), partial)
    except OSError as error:
        raise JobError(f"{out} cannot be written: {error.strerror or error}") from None
