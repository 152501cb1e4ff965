"""Convert the columns of a table to arrays: features to numbers, labels to numbers or strings."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sumgrad.jobs.data.dataset import FileSpan, RawDataset
from sumgrad.jobs.data.readers.guard import check_stop
from sumgrad.jobs.errors import DataError, DataNotFound
from sumgrad.jobs.support.memory import check_memory_for_names, check_memory_for_rows
from sumgrad.model.validation import did_you_mean

_MAX_VALUE = 1e150  #: Squares of larger numbers overflow, and with them every sum over the rows.
_MAX_EXACT = 2**53  #: Larger integers are not all exact in float64, in which features are scaled.
INT64_END = 2.0**63  #: The first number that does not fit into a 64-bit integer.
_SHOWN_CHARACTERS = 40
_NUMBER_BYTES, _TEXT_BYTES = 8, 72  #: Bytes of the widest number, and of an empty Python text.


@dataclass(frozen=True)
class _Column:
    """Values of one Arrow type; of a list column the items, with this number of them per row."""

    values: pa.ChunkedArray
    file: str
    name: str
    per_row: int = 1

    @property
    def type(self) -> pa.DataType:
        """Arrow type of the values."""
        return self.values.type

    def error(self, message: str, position: int | None = None, hint: str = "") -> DataError:
        """Return an error about the column, or about its value at a position from 0."""
        row = None if position is None else position // self.per_row + 1
        return DataError(message, file=self.file, column=self.name, row=row, hint=hint)

    def check_no_null(self) -> None:
        """Raise at the first missing value."""
        if pa.types.is_null(self.type):
            position = 0  # Nulls take no memory, so there may be too many for a mask.
        elif self.values.null_count:
            position = int(np.flatnonzero(self.values.is_null().to_numpy())[0])
        else:
            return
        raise self.error("the value is missing (null)", position)


def rows_of_table(
    table: pa.Table,
    file: str,
    features: tuple[str, ...] | None,
    label: tuple[str, ...],
    *,
    numeric_labels: bool,
) -> RawDataset:
    """Convert the rows of one file; columns and labels are those of `read_dataset`.

    Raises:
        DataNotFound: A column does not exist.
        DataError: A value cannot be trained on (names column and row), or the arrays, which can be
            larger than the table, do not fit into memory.
    """
    with _arrow_errors(file):
        labels = _labels(table, file, label, numeric=numeric_labels) if label else None
        names = features or tuple(name for name in table.column_names if name not in label)
        if not names:
            raise DataNotFound(f"{file} has no column but the label")
        columns = _columns(table, names, file)
        list_column = names[0] if len(names) == 1 and _is_list(columns[0].type) else None
        if list_column is None:
            x = _matrix(columns)
        else:
            x = _list_matrix(columns[0])
            check_memory_for_names(x.shape[1], file)
            names = tuple(f"{list_column}_{i}" for i in range(x.shape[1]))
        return RawDataset(x, labels, names, label, (FileSpan(file, len(x)),), list_column)


def check_same_columns(table: pa.Table, file: str, first: RawDataset) -> None:
    """Raise `DataError` unless a table has exactly the feature columns of the first file."""
    here = {name for name in table.column_names if name not in first.label}
    different = sorted(here.symmetric_difference(first.columns))
    if len(here) != len(first.columns):
        problem = f"{len(here)} features, but {first.file} has {len(first.columns)}"
        raise DataError(problem, file=file, hint=f"only in one of them: {', '.join(different)}")
    for name in different:
        with_it, without = (file, first.file) if name in here else (first.file, file)
        raise DataError(f"{with_it} has the column, {without} does not", file=file, column=name)


@contextmanager
def _arrow_errors(file: str) -> Iterator[None]:
    """Report errors of Arrow as errors of a file."""
    try:
        yield
    except pa.ArrowException as error:
        first_line = str(error).partition("\n")[0]
        raise DataError(f"cannot be read: {first_line}", file=file) from None


def _columns(table: pa.Table, names: tuple[str, ...], file: str) -> list[_Column]:
    known = set(table.column_names)
    columns = []
    for name in names:
        if name not in known:
            hint = did_you_mean(name, table.column_names)
            raise DataNotFound(f"{file} has no column '{name}'", hint=hint)
        values = table.column(name)
        if pa.types.is_dictionary(values.type):
            check_memory_for_rows(_decoded_bytes(values), file)
            values = values.cast(values.type.value_type)
        columns.append(_Column(values, file, name))
    return columns


def _decoded_bytes(values: pa.ChunkedArray) -> int:
    """Return the size of a dictionary column when each row has its own copy of a value."""
    kind = values.type.value_type
    size: int = _NUMBER_BYTES * len(values)
    if _is_text(kind) or pa.types.is_binary(kind):
        for chunk in values.chunks:
            size += pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0
    return size


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _is_text(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in tests)


def _matrix(columns: list[_Column]) -> NDArray[Any]:
    """Return columns as (N, D), of a type that holds them all."""
    dtype = np.result_type(*{_number_type(column.type) for column in columns})
    size = len(columns) * len(columns[0].values) * dtype.itemsize
    check_memory_for_rows(size, columns[0].file)
    return np.column_stack([_numbers(column) for column in columns])


def _number_type(kind: pa.DataType) -> np.dtype[Any]:
    """Return the dtype that `_numbers` gives a column; the smallest one if it raises."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        number: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
        return number
    return np.dtype("f8" if pa.types.is_decimal(kind) else "u1")


def _numbers(column: _Column, *, keep_integers: bool = False) -> NDArray[Any]:
    """Return a column as finite numbers, (N,); integers are exact as float64 or keep their type."""
    check_stop()
    kind, numeric = column.type, column.values
    if pa.types.is_boolean(kind) or pa.types.is_decimal(kind):
        numeric = numeric.cast(pa.uint8() if pa.types.is_boolean(kind) else pa.float64())
    if not _is_text(kind):
        column.check_no_null()
    if not (pa.types.is_integer(numeric.type) or pa.types.is_floating(numeric.type)):
        raise _not_numbers(column)
    values: NDArray[Any] = numeric.to_numpy()
    if values.dtype.kind == "f":
        # NaN is not below anything, so this finds NaN as well.
        largest = min(_MAX_VALUE, float(np.finfo(values.dtype).max))
        invalid = np.flatnonzero(~(np.abs(values) <= largest))
        if invalid.size:
            value = values[invalid[0]]
            problem = "too large to compute with" if np.isfinite(value) else "not a finite number"
            raise column.error(f"{value} is {problem}", int(invalid[0]))
    is_whole = pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale <= 0)
    if is_whole and not (keep_integers and values.dtype.kind in "iu"):
        # The float64 of a decimal may have been rounded to the limit itself.
        limit = _MAX_EXACT - (values.dtype.kind == "f")
        inexact = np.flatnonzero((values > limit) | (values < -limit))
        if inexact.size:
            position = int(inexact[0])
            exact = column.values[position].as_py()
            raise column.error(f"{exact} is beyond 2^53, and would be rounded", position)
    return values


def _not_numbers(column: _Column) -> DataError:
    """Return the error for a column that is not numeric; it names the first such text."""
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return column.error("holds bytes that are neither numbers nor UTF-8 text")
    for position, value in enumerate(column.values if _is_text(column.type) else ()):
        text = value.as_py()
        if text is None or not text.strip():
            return column.error("the value is missing (null)", position)
        try:
            float(text)
        except ValueError:
            shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
            return column.error(f"{shown!r} is not a number", position)
    return column.error(f"the type {column.type} is not a number")


def _list_matrix(column: _Column) -> NDArray[Any]:
    """Return a column of lists of equal length as (N, D)."""
    column.check_no_null()
    lengths = np.asarray(pc.list_value_length(column.values).to_numpy())
    width = int(lengths[0])
    different = np.flatnonzero(lengths != width)
    if different.size:
        position = int(different[0])
        message = f"the list has {lengths[position]} items, the first row's has {width}"
        raise column.error(message, position)
    if not width:
        raise column.error("the lists are empty")
    items = _Column(pc.list_flatten(column.values), column.file, column.name, per_row=width)
    return _numbers(items).reshape(-1, width)


def _labels(table: pa.Table, file: str, label: tuple[str, ...], *, numeric: bool) -> NDArray[Any]:
    columns = _columns(table, label, file)
    if not numeric:
        return _classes(columns[0])
    if len(columns) == 1 and _is_list(columns[0].type):
        return _list_matrix(columns[0]).astype(np.float64)
    return _matrix(columns).astype(np.float64)


def _classes(column: _Column) -> NDArray[Any]:
    """Return a label column as strings or integers; 3.0 becomes 3."""
    if _is_text(column.type):
        column.check_no_null()
        size = column.values.nbytes + _TEXT_BYTES * len(column.values)
        check_memory_for_rows(size, column.file)
        texts = np.array(column.values.to_pylist(), dtype=object)
        blank = np.flatnonzero(texts == "")
        if blank.size:
            raise column.error("the label is empty", int(blank[0]))
        return texts
    values = _numbers(column, keep_integers=True)
    if values.dtype.kind != "i":
        # From this limit on, different integers may have been rounded to the same float64.
        end = INT64_END if values.dtype.kind == "u" else _MAX_EXACT
        invalid = np.flatnonzero((values != np.floor(values)) | (np.abs(values) >= end))
        if invalid.size:
            position = int(invalid[0])
            raise column.error(
                f"{values[position]} is not a class: neither an exact integer nor a string",
                position,
                hint="for a regression set model.divergence to l2",
            )
    return values.astype(np.int64)
