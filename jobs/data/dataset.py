"""Rows as they were read: features not yet scaled, labels not yet encoded, and their files."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sumgrad.jobs.errors import DataError, DataNotFound
from sumgrad.model.validation import did_you_mean


@dataclass(frozen=True)
class FileSpan:
    """Consecutive rows of one file.

    Attributes:
        file: Name of the file.
        rows: Number of rows.
    """

    file: str
    rows: int


@dataclass(frozen=True)
class RawDataset:
    """Rows of one or more files.

    Attributes:
        x: Features, (N, D), of the numeric type in which they are stored.
        labels: (N,) whole numbers or texts; (N, K) numbers for a regression; None if not read.
        features: D names.
        label: Names of the label columns.
        spans: The files in order.
        list_column: The column that holds all features as a list, or None.
        image_shape: Height and width if rows are images.
    """

    x: NDArray[Any]
    labels: NDArray[Any] | None
    features: tuple[str, ...]
    label: tuple[str, ...]
    spans: tuple[FileSpan, ...]
    list_column: str | None = None
    image_shape: tuple[int, int] | None = None

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
        """Return the rows with only these features, in this order; None keeps all.

        Raises:
            DataNotFound: A feature does not exist.
        """
        if names is None or names == self.features:
            return self
        positions = {name: index for index, name in enumerate(self.features)}
        for name in names:
            if name not in positions:
                hint = did_you_mean(name, positions)
                raise DataNotFound(f"{self.file} has no feature '{name}'", hint=hint)
        x = self.x[:, [positions[name] for name in names]]
        return replace(self, x=x, features=names, image_shape=None)

    def error(self, message: str, row: int, column: str | None = None, hint: str = "") -> DataError:
        """Return an error about one row, given from 0."""
        file, number = locate(self.spans, row)
        return DataError(message, file=file, column=column, row=number, hint=hint)


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


def concatenate(pieces: list[RawDataset]) -> RawDataset:
    """Return the rows of several files as one data set.

    Raises:
        DataError: A file differs from the first one in features or labels.
    """
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
    if piece.list_column != first.list_column:
        kind = "numbers" if piece.list_column is None else "lists"
        message = f"holds {kind}, in {first.file} it does not"
        raise DataError(message, file=piece.file, column=piece.columns[0])
    if piece.x.shape[1] != first.x.shape[1]:
        message = f"{piece.x.shape[1]} features, but {first.file} has {first.x.shape[1]}"
        raise DataError(message, file=piece.file)
    if piece.labels is None or first.labels is None:
        return
    if piece.labels.shape[1:] != first.labels.shape[1:]:
        message = f"{piece.labels.shape[1]} targets, but {first.file} has {first.labels.shape[1]}"
        raise DataError(message, file=piece.file, column=piece.label[0])
    here, there = ("texts" if s.targets.dtype == object else "numbers" for s in (piece, first))
    if here != there:
        message = f"labels are {here} here and {there} in {first.file}"
        raise DataError(message, file=piece.file, column=piece.label[0])
