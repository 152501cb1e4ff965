"""Rows as they were read: features not yet scaled, labels not yet encoded, and their files."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from sumgrad.jobs.errors import DataError, DataNotFound
from sumgrad.jobs.support.text import plural
from sumgrad.model.validation import did_you_mean

_DIGEST_CHARACTERS = 32  #: MLflow accepts 36 characters.
_LISTED_ROWS = 3  #: The number of rows of a file that a message lists.


class FileSpan(NamedTuple):
    """Consecutive rows of one file."""

    file: str
    rows: int


@dataclass(frozen=True)
class RawDataset:
    """Rows of one or more files."""

    x: NDArray[Any]  #: Features, (N, D), of the numeric type in which they are stored.
    labels: NDArray[Any] | None  #: (N,) integers or strings; regression: (N, K) numbers; or None.
    features: tuple[str, ...]  #: D names.
    label: tuple[str, ...]
    spans: tuple[FileSpan, ...]
    list_column: str | None = None  #: The column that holds all features as a list.
    image_shape: tuple[int, int] | None = None  #: Height and width if rows are images.

    @property
    def count(self) -> int:
        """Number of rows, N."""
        return len(self.x)

    @property
    def file(self) -> str:
        """The first file, for messages about all rows."""
        return self.spans[0].file

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the file that hold the features."""
        return self.features if self.list_column is None else (self.list_column,)

    @property
    def targets(self) -> NDArray[Any]:
        """The labels of rows that were read with labels."""
        if self.labels is None:
            raise ValueError("these rows were read without labels")
        return self.labels

    def select(self, names: tuple[str, ...] | None) -> Self:
        """Return the rows with only these features, or all; `DataNotFound` if one is missing."""
        if names is None or names == self.features:
            return self
        positions = {name: index for index, name in enumerate(self.features)}
        for name in names:
            if name not in positions:
                hint = did_you_mean(name, positions)
                raise DataNotFound(f"{self.file} has no feature '{name}'", hint=hint)
        x = self.x[:, [positions[name] for name in names]]
        return replace(self, x=x, features=names, image_shape=None)

    def error(self, message: str, row: int, column: str | None = None) -> DataError:
        """Return an error about one row, given from 0."""
        file, number = locate(self.spans, row)
        return DataError(message, file=file, column=column, row=number)


@dataclass(frozen=True)
class RowLocations:
    """The files and rows that the rows of a split were read from, for messages."""

    spans: tuple[FileSpan, ...]
    numbers: NDArray[np.intp] | None  #: Each row's number over all files, from 0; None for all.
    count: int  #: Number of rows that were read; the rows after them were made.

    def describe(self, rows: Sequence[int]) -> str:
        """Return files and rows, from 1, of some rows.

        >>> locations = RowLocations((FileSpan("a.csv", 10), FileSpan("b.csv", 10)), None, 20)
        >>> locations.describe([11])
        'b.csv, row 2'
        >>> locations.describe([0, 4, 5, 6, 7, 19, 20])
        'a.csv, rows 1, 5, 6 and 2 more; b.csv, row 10; 1 made row'
        """
        by_file: dict[str, list[int]] = {}
        for row in rows:
            if row < self.count:
                number = row if self.numbers is None else int(self.numbers[row])
                file, in_file = locate(self.spans, number)
                by_file.setdefault(file, []).append(in_file)
        described = [f"{file}, {_list_rows(numbers)}" for file, numbers in by_file.items()]
        if made := sum(row >= self.count for row in rows):
            described.append(plural(made, "made row"))
        return "; ".join(described)


def _list_rows(numbers: list[int]) -> str:
    first = ", ".join(map(str, numbers[:_LISTED_ROWS]))
    more = f" and {len(numbers) - _LISTED_ROWS} more" if len(numbers) > _LISTED_ROWS else ""
    return f"row{'s' if len(numbers) > 1 else ''} {first}{more}"


def locate(spans: tuple[FileSpan, ...], row: int) -> tuple[str, int]:
    """Return the file, and the row in it from 1, of a row from 0 over all files."""
    for span in spans:
        if row < span.rows:
            return span.file, row + 1
        row -= span.rows
    raise IndexError(row)


def pixel_names(height: int, width: int) -> tuple[str, ...]:
    """Return names for the features of an image, row by row."""
    return tuple(f"pixel_{row}_{column}" for row in range(height) for column in range(width))


def whole_labels(values: NDArray[Any], *, numeric: bool) -> NDArray[Any]:
    """Return integers (N,) as targets of a regression (N, 1), or as classes (N,)."""
    return values.astype(np.float64)[:, None] if numeric else values.astype(np.int64)


def digest_values(x: NDArray[Any], labels: NDArray[Any]) -> str:
    """Return a digest of the types, shapes and values of features (N, D) and labels."""
    digest = hashlib.sha256()
    for array in (x, labels):
        digest.update(f"{array.dtype} {array.shape} ".encode())
        if array.dtype == object:
            digest.update("\0".join(map(str, array.tolist())).encode())
        else:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:_DIGEST_CHARACTERS]


def concatenate(pieces: list[RawDataset]) -> RawDataset:
    """Return the rows of files as one data set; raise `DataError` if features or labels differ."""
    first = pieces[0]
    for piece in pieces[1:]:
        _check_alike(piece, first)
    if len(pieces) == 1:
        return first
    labels = [piece.labels for piece in pieces if piece.labels is not None]
    return replace(
        first,
        x=np.concatenate([piece.x for piece in pieces]),
        labels=np.concatenate(labels) if labels else None,
        spans=tuple(span for piece in pieces for span in piece.spans),
    )


def _check_alike(piece: RawDataset, first: RawDataset) -> None:
    column = None
    if piece.list_column != first.list_column:
        kind = "numbers" if piece.list_column is None else "lists"
        problem, column = f"holds {kind}, in {first.file} it does not", piece.columns[0]
    elif piece.x.shape[1] != first.x.shape[1]:
        problem = f"{piece.x.shape[1]} features, but {first.file} has {first.x.shape[1]}"
    elif piece.labels is None or first.labels is None:
        return
    elif piece.labels.shape[1:] != first.labels.shape[1:]:
        targets = piece.labels.shape[1], first.labels.shape[1]
        problem = f"{targets[0]} targets, but {first.file} has {targets[1]}"
        column = piece.label[0]
    elif (is_text := piece.labels.dtype == object) != (first.labels.dtype == object):
        here, there = ("strings", "numbers") if is_text else ("numbers", "strings")
        problem = f"labels are {here} here and {there} in {first.file}"
        column = piece.label[0]
    else:
        return
    raise DataError(problem, file=piece.file, column=column)
