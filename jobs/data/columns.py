"""From a table's columns to arrays: features as numbers, labels as whole numbers or texts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sumgrad.jobs.data.dataset import FileSpan, RawDataset
from sumgrad.jobs.data.labels import not_classes
from sumgrad.jobs.errors import DataError, DataNotFound
from sumgrad.jobs.support.memory import (
    available_bytes,
    check_memory_for_names,
    check_memory_for_rows,
)
from sumgrad.model.validation import did_you_mean

#: Beyond it squares overflow, and with them every sum over the rows.
_LARGEST = 1e150
_SHOWN_CHARACTERS = 40
#: A number of the widest kind, and a text as Python holds it besides its characters.
_NUMBER_BYTES, _TEXT_BYTES = 8, 72


@dataclass(frozen=True)
class _Column:
    """A column's values and where they stand.

    Attributes:
        values: Of one Arrow type.
        file: The file's name.
        name: The column's.
        per_row: How many values make one row; more than one for the items of lists.
    """

    values: pa.ChunkedArray
    file: str
    name: str
    per_row: int = 1

    @property
    def type(self) -> pa.DataType:
        """What the values are."""
        return self.values.type

    def error(self, message: str, place: int | None = None, hint: str = "") -> DataError:
        """An error about the column, or about its value at a place from 0."""
        row = None if place is None else place // self.per_row + 1
        return DataError(message, file=self.file, column=self.name, row=row, hint=hint)

    def expect_no_null(self) -> None:
        """Raise at the first missing value."""
        if pa.types.is_null(self.type):
            # They take no memory, so that there may be more of them than bits.
            raise self.error("the value is missing (null)", 0)
        if self.values.null_count:
            place = int(np.flatnonzero(self.values.is_null().to_numpy())[0])
            raise self.error("the value is missing (null)", place)


def rows_of_table(
    table: pa.Table,
    file: str,
    features: tuple[str, ...] | None,
    label: tuple[str, ...],
    *,
    numbers: bool,
    with_labels: bool,
) -> RawDataset:
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
        DataError: A column holds what cannot be trained on; names column and row. Or memory has no
            room for it, which may take more than the table does.
    """
    with _arrow_s_errors_told(file):
        labels = _labels(table, file, label, numbers=numbers) if with_labels else None
        wanted = features or tuple(name for name in table.column_names if name not in label)
        if not wanted:
            raise DataNotFound(f"{file} has no column but the label")
        columns = _columns(table, wanted, file)
        list_column = wanted[0] if len(wanted) == 1 and _is_list(columns[0].type) else None
        if list_column is not None:
            x = _list_matrix(columns[0])
            check_memory_for_names(x.shape[1], file)
            names = tuple(f"{list_column}_{i}" for i in range(x.shape[1]))
        else:
            x = _matrix(columns)
            names = wanted
        return RawDataset(x, labels, names, label, (FileSpan(file, len(x)),), list_column)


@contextmanager
def _arrow_s_errors_told(file: str) -> Iterator[None]:
    """What Arrow cannot do with a file's columns is the file's fault."""
    try:
        yield
    except pa.ArrowException as error:
        first_line = str(error).partition("\n")[0]
        raise DataError(f"cannot be read: {first_line}", file=file) from None


def check_same_columns(table: pa.Table, file: str, first: RawDataset) -> None:
    """Raise unless a table has the feature columns of the first file, and no others.

    Raises:
        DataError: They are not as many, or a column is in only one of the two files.
    """
    here = {name for name in table.column_names if name not in first.label}
    odd = sorted(here.symmetric_difference(first.columns))
    if len(here) != len(first.columns):
        raise DataError(
            f"{len(here)} features, but {first.file} has {len(first.columns)}",
            file=file,
            hint=f"only in one of them: {', '.join(odd)}",
        )
    for name in odd:
        has, has_not = ("has", "has not") if name in here else ("has not", "has")
        raise DataError(
            f"this file {has} the column, {first.file} {has_not}", file=file, column=name
        )


def _columns(table: pa.Table, wanted: tuple[str, ...], file: str) -> list[_Column]:
    known = set(table.column_names)
    for name in wanted:
        if name not in known:
            hint = did_you_mean(name, table.column_names)
            raise DataNotFound(f"{file} has no column '{name}'", hint=hint)
    return [_column(table.column(name), name, file) for name in wanted]


def _column(values: pa.ChunkedArray, name: str, file: str) -> _Column:
    if pa.types.is_dictionary(values.type):
        _expect_room(_looked_up_bytes(values), file)
        values = values.cast(values.type.value_type)
    return _Column(values, file, name)


def _expect_room(size: int, file: str) -> None:
    check_memory_for_rows(size, file, free=available_bytes())


def _looked_up_bytes(values: pa.ChunkedArray) -> int:
    """What a column takes once its dictionary is looked up: each row its own copy of a value."""
    if _is_text(values.type.value_type) or pa.types.is_binary(values.type.value_type):
        lengths = (
            pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0
            for chunk in values.chunks
        )
        return sum(lengths) + _NUMBER_BYTES * len(values)
    return _NUMBER_BYTES * len(values)


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in tests)


def _is_text(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in tests)


def _matrix(columns: list[_Column]) -> NDArray[Any]:
    """Columns as (N, D), of a type that holds them all: a bit may become a number of 64."""
    kind = np.result_type(*{_number_type(column.type) for column in columns})
    _expect_room(len(columns) * len(columns[0].values) * kind.itemsize, columns[0].file)
    return np.column_stack([_numbers(column) for column in columns])


def _number_type(kind: pa.DataType) -> np.dtype[Any]:
    """What `_numbers` makes of a column; the smallest of all where it makes nothing of it."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        number: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
        return number
    return np.dtype("f8" if pa.types.is_decimal(kind) else "u1")


def _numbers(column: _Column) -> NDArray[Any]:
    """A column as finite numbers, (N,)."""
    if _is_text(column.type):
        raise _text_error(column)
    numeric = _as_numeric(column.values)
    kind = numeric.type
    column.expect_no_null()
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise column.error(_type_fault(kind))
    values: NDArray[Any] = numeric.to_numpy()
    if values.dtype.kind == "f":
        # NaN is not below anything, so that this finds it as well.
        largest = min(_LARGEST, float(np.finfo(values.dtype).max))
        odd = np.flatnonzero(~(np.abs(values) <= largest))
        if odd.size:
            value = values[odd[0]]
            fault = "too large to compute with" if np.isfinite(value) else "not a finite number"
            raise column.error(f"{value} is {fault}", int(odd[0]))
    return values


def _as_numeric(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Truth values and decimals as numbers that NumPy has; all others as they are."""
    if pa.types.is_boolean(values.type):
        return values.cast(pa.uint8())
    if pa.types.is_decimal(values.type):
        return values.cast(pa.float64())
    return values


def _type_fault(kind: pa.DataType) -> str:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "holds bytes that are neither numbers nor UTF-8 text"
    return f"the type {kind} is no number"


def _text_error(column: _Column) -> DataError:
    """Which text it is that is no number."""
    for place, value in enumerate(column.values):
        text = value.as_py()
        if text is None or not text.strip():
            return column.error("the value is missing (null)", place)
        try:
            float(text)
        except ValueError:
            cut = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
            return column.error(f"{cut!r} is not a number", place)
    return column.error(f"the type {column.type} is no number")


def _list_matrix(column: _Column) -> NDArray[Any]:
    """A column of equally long lists as (N, D)."""
    column.expect_no_null()
    lengths = np.asarray(pc.list_value_length(column.values).to_numpy())
    odd = np.flatnonzero(lengths != lengths[0])
    if odd.size:
        found = f"the list has {lengths[odd[0]]} items, the first row's has {lengths[0]}"
        raise column.error(found, int(odd[0]))
    width = int(lengths[0])
    if not width:
        raise column.error("the lists are empty")
    items = _Column(pc.list_flatten(column.values), column.file, column.name, per_row=width)
    return _numbers(items).reshape(-1, width)


def _labels(table: pa.Table, file: str, label: tuple[str, ...], *, numbers: bool) -> NDArray[Any]:
    columns = _columns(table, label, file)
    if not numbers:
        return _classes(columns[0])
    if len(columns) == 1 and _is_list(columns[0].type):
        return _list_matrix(columns[0]).astype(np.float64)
    return _matrix(columns).astype(np.float64)


def _classes(column: _Column) -> NDArray[Any]:
    """A label column: texts as they are, whole numbers as such, also where stored as 3.0."""
    if _is_text(column.type):
        column.expect_no_null()
        _expect_room(column.values.nbytes + _TEXT_BYTES * len(column.values), column.file)
        texts = np.array(column.values.to_pylist(), dtype=object)
        blank = np.flatnonzero(texts == "")
        if blank.size:
            raise column.error("the label is empty", int(blank[0]))
        return texts
    values = _numbers(column)
    odd = np.flatnonzero(not_classes(values))
    if odd.size:
        raise column.error(
            f"{values[odd[0]]} is no class: neither a whole number nor a text",
            int(odd[0]),
            hint="for a regression set model.divergence to l2",
        )
    return values.astype(np.int64)
