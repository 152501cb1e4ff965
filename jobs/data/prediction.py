"""Rows for a trained model, and files of its predictions."""

import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import DTypeLike, NDArray

from sumgrad.jobs.data.compatibility import check_known_labels, check_range, check_width
from sumgrad.jobs.data.dataset import RawDataset
from sumgrad.jobs.data.labels import in_training_terms
from sumgrad.jobs.data.readers.sources import read_dataset
from sumgrad.jobs.data.schema import DataSchema
from sumgrad.jobs.errors import JobError


def read_for_model(
    source: str, schema: DataSchema, dtype: DTypeLike, *, with_labels: bool
) -> RawDataset:
    """Raw rows as the model's training had them.

    Args:
        source: As in a spec's ``data.train``; a folder of MNIST's files stands for its test part.
        schema: The model's.
        dtype: Of the model's arithmetic, which has to be able to hold the scaled rows.
        with_labels: Whether labels are wanted, and then all of them known.

    Raises:
        DataNotFound: Nothing there, or a column is missing.
        DataError: Rows that the model cannot take; names file, column and row.
    """
    read = read_dataset(
        source,
        "test",
        schema.label,
        schema.columns_to_read,
        numbers=schema.kind == "numbers",
        with_labels=with_labels,
    )
    check_width(read, schema)
    if with_labels and schema.kind != "numbers":
        known = schema.seen if schema.reject is None else (*schema.seen, schema.reject)
        read = replace(read, labels=in_training_terms(read.targets, known))
        check_known_labels(read, known)
    check_range(read, schema.scaling, dtype)
    return read


def check_writable(out: Path) -> None:
    """Raise unless predictions can be written there.

    Raises:
        JobError: Another ending than .parquet or .csv, or no such folder.
    """
    if out.suffix not in (".parquet", ".csv"):
        raise JobError(f"{out}: predictions are written to a .parquet or a .csv file")
    if not out.parent.is_dir():
        raise JobError(f"{out} cannot be written: there is no folder {out.parent}")


def write_columns(out: Path, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write columns as a Parquet or a CSV file, by the ending; whole or not at all.

    Raises:
        JobError: Another ending, or a folder that cannot be written to.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    check_writable(out)
    writers = {".parquet": parquet.write_table, ".csv": csv.write_csv}
    unfinished = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.unfinished")
    try:
        writers[out.suffix](pa.table(dict(columns)), unfinished)
        unfinished.replace(out)
    except OSError as error:
        raise JobError(f"{out} cannot be written: {error.strerror or error}") from None
    finally:
        unfinished.unlink(missing_ok=True)
