"""Read Parquet files in batches, and stop when memory would not hold the rows.

A few bytes of a file can encode billions of values: compressed, as runs, or in a dictionary. The
sizes in the metadata are not trusted. A batch is decoded first, and checked then.
"""

from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from sumgrad.jobs.data.readers.guard import ReadGuard

_BATCH_BYTES = 1 << 23  #: Bytes of a batch of columns whose values have a fixed size.
_BATCH_ROWS = 256  #: Rows of a batch with lists or strings, whose size is known only when decoded.
_VALUE_BYTES = 8


def read_parquet(path: Path) -> pa.Table:
    """Return all rows of a Parquet file.

    Raises:
        DataError: The rows do not fit into memory.
        ArrowException, OSError: The file is damaged.
    """
    schema = parquet.read_metadata(path).schema
    columns = [schema.column(index) for index in range(len(schema))]
    texts = [column.path for column in columns if _is_text(column)]
    guard, batches = ReadGuard(str(path)), []
    with parquet.ParquetFile(path, page_checksum_verification=True, read_dictionary=texts) as file:
        before = pa.total_allocated_bytes()
        for batch in file.iter_batches(_batch_rows(columns)):
            batches.append(batch)
            # Batches share dictionaries, so the sum of their sizes would be too large.
            guard.check(pa.total_allocated_bytes() - before)
        return pa.Table.from_batches(batches) if batches else file.schema_arrow.empty_table()


def _is_text(column: parquet.ColumnSchema) -> bool:
    """Return whether a column is read as a dictionary, which is as small as in the file.

    A text of 1 MiB that a million rows repeat would take 1 TiB otherwise. Arrow cannot assemble
    lists and structures from dictionaries.
    """
    return (
        column.physical_type == "BYTE_ARRAY"
        and column.logical_type.type in ("STRING", "NONE")
        and column.path == column.name
    )


def _batch_rows(columns: list[parquet.ColumnSchema]) -> int:
    if any(
        column.max_repetition_level
        or (column.physical_type == "BYTE_ARRAY" and not _is_text(column))
        for column in columns
    ):
        return _BATCH_ROWS
    row_bytes = sum(max(_VALUE_BYTES, column.length or 0) for column in columns)
    return max(1, _BATCH_BYTES // max(1, row_bytes))
