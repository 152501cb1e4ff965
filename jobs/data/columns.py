"""From a table's columns to arrays: features as numbers, labels as whole numbers or texts."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.data.rows import Part, RawRows
from jobs.errors import DataError, DataNotFound
from model.checks import nearest


def rows_of_table(
    table: pa.Table,
    file: str,
    features: tuple[str, ...] | None,
    label: tuple[str, ...],
    *,
    numbers: bool,
    with_labels: bool,
) -> RawRows:
    """The rows of one file.

    Args:
        table: What it holds.
        file: Its name, for messages.
        features: Feature columns, or one list column; None for all but the label.
        label: Label columns.
        numbers: Whether labels are the numbers of a regression.
        with_labels: Whether to read labels at all.

    Raises:
        DataNotFound: A column is missing.
        DataError: A column holds what cannot be trained on; names column and row.
    """
    wanted = features or tuple(name for name in table.column_names if name not in label)
    if not wanted:
        raise DataNotFound(f"{file} has no column but the label")
    columns = [_column(table, name, file) for name in wanted]
    # A misspelt label would otherwise be found among the features first, as a text or a number.
    labels = _labels(table, file, label, numbers=numbers) if with_labels else None
    list_column = wanted[0] if len(wanted) == 1 and _is_list(columns[0].type) else None
    if list_column is not None:
        x = _list_matrix(columns[0], file, list_column)
        names = tuple(f"{list_column}_{i}" for i in range(x.shape[1]))
    else:
        x = np.column_stack(
            [_numbers(column, file, name) for name, column in zip(wanted, columns, strict=True)]
        )
        names = wanted
    return RawRows(x, labels, names, label, (Part(file, len(x)),), list_column)


def _column(table: pa.Table, name: str, file: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise DataNotFound(f"{file} has no column '{name}'", hint=nearest(name, table.column_names))
    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _expect_no_null(column: pa.ChunkedArray, file: str, name: str) -> None:
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0]) + 1
        raise DataError("the value is missing (null)", file=file, column=name, row=row)


def _numbers(column: pa.ChunkedArray, file: str, name: str) -> NDArray[Any]:
    """A column as finite numbers, (N,)."""
    kind = column.type
    if _is_text(kind):
        raise _text_error(column, file, name)
    if pa.types.is_boolean(kind):
        column, kind = column.cast(pa.uint8()), pa.uint8()
    if pa.types.is_decimal(kind):
        column, kind = column.cast(pa.float64()), pa.float64()
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        # An all-null column has a type of its own.
        _expect_no_null(column, file, name)
        raise DataError(f"the type {kind} is no number", file=file, column=name)
    _expect_no_null(column, file, name)
    values: NDArray[Any] = column.to_numpy()
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise DataError(
            f"{values[row]} is not a finite number", file=file, column=name, row=row + 1
        )
    return values


def _text_error(column: pa.ChunkedArray, file: str, name: str) -> DataError:
    """Which text it is that is no number."""
    for row, text in enumerate(column.to_pylist(), start=1):
        if text is None or not text.strip():
            return DataError("the value is missing (null)", file=file, column=name, row=row)
        try:
            float(text)
        except ValueError:
            shown = text if len(text) <= 40 else f"{text[:40]}…"
            return DataError(f"'{shown}' is not a number", file=file, column=name, row=row)
    return DataError(f"the type {column.type} is no number", file=file, column=name)


def _list_matrix(column: pa.ChunkedArray, file: str, name: str) -> NDArray[Any]:
    """A column of equally long lists as (N, D)."""
    _expect_no_null(column, file, name)
    lengths = np.asarray(pc.list_value_length(column).to_numpy())
    odd = np.flatnonzero(lengths != lengths[0])
    if odd.size:
        raise DataError(
            f"the list has {lengths[odd[0]]} items, the first row's has {lengths[0]}",
            file=file,
            column=name,
            row=int(odd[0]) + 1,
        )
    if lengths[0] == 0:
        raise DataError("the lists are empty", file=file, column=name)
    width = int(lengths[0])
    try:
        values = _numbers(pc.list_flatten(column), file, name)
    except DataError as error:
        if error.row is None:
            raise
        # The row of the flattened values is one of an item.
        row = (error.row - 1) // width + 1
        message = error.message.rpartition(": ")[2]
        raise DataError(f"in the list: {message}", file=file, column=name, row=row) from None
    return values.reshape(-1, width)


def _labels(table: pa.Table, file: str, label: tuple[str, ...], *, numbers: bool) -> NDArray[Any]:
    columns = [_column(table, name, file) for name in label]
    if numbers:
        if len(label) == 1 and _is_list(columns[0].type):
            return _list_matrix(columns[0], file, label[0])
        values = [_numbers(c, file, name) for c, name in zip(columns, label, strict=True)]
        return np.column_stack(values).astype(np.float64)
    return _classes(columns[0], file, label[0])


def _classes(column: pa.ChunkedArray, file: str, name: str) -> NDArray[Any]:
    """A label column: texts as they are, whole numbers as such, also where stored as 3.0."""
    if _is_text(column.type):
        _expect_no_null(column, file, name)
        texts = np.array(column.to_pylist(), dtype=object)
        blank = np.flatnonzero(texts == "")
        if blank.size:
            raise DataError("the label is empty", file=file, column=name, row=int(blank[0]) + 1)
        return texts
    values = _numbers(column, file, name)
    if values.dtype.kind == "f":
        odd = np.flatnonzero(values != np.floor(values))
        if odd.size:
            raise DataError(
                f"{values[odd[0]]} is no class: neither a whole number nor a text",
                file=file,
                column=name,
                row=int(odd[0]) + 1,
                hint="for a regression set model.divergence to l2",
            )
    return values.astype(np.int64)
