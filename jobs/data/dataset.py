"""Rows as they were read: numbers not yet scaled, labels as they stand, and where each is from."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sumgrad.jobs.errors import DataError, DataNotFound
from sumgrad.model.validation import did_you_mean


@dataclass(frozen=True)
class FileSpan:
    """Consecutive rows from one file."""

    file: str
    rows: int


@dataclass(frozen=True)
class RawDataset:
    """Rows of one or more files.

    Attributes:
        x: Features, (N, D), of whatever numeric type they were stored in.
        labels: (N,) whole numbers or texts; (N, K) numbers for a regression; None if not read.
        features: D names.
        label: The label columns' names.
        parts: The files in their order.
        list_column: The column that holds all features as a list, or None.
        image_shape: Height and width, where rows are images.
    """

    x: NDArray[Any]
    labels: NDArray[Any] | None
    features: tuple[str, ...]
    label: tuple[str, ...]
    parts: tuple[FileSpan, ...]
    list_column: str | None = None
    image_shape: tuple[int, int] | None = None

    @property
    def count(self) -> int:
        """N."""
        return len(self.x)

    @property
    def file(self) -> str:
        """The first file, for messages about all rows."""
        return self.parts[0].file

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the features stood in."""
        return self.features if self.list_column is None else (self.list_column,)

    @property
    def targets(self) -> NDArray[Any]:
        """The labels of rows that were read with labels."""
        if self.labels is None:
            raise ValueError("these rows were read without labels")
        return self.labels

    def select(self, names: tuple[str, ...] | None) -> Self:
        """Only the features of these names, in this order; None for all.

        Raises:
            DataNotFound: There is no such feature.
        """
        if names is None or names == self.features:
            return self
        places = {name: index for index, name in enumerate(self.features)}
        for name in names:
            if name not in places:
                raise DataNotFound(
                    f"{self.file} has no feature '{name}'", hint=did_you_mean(name, places)
                )
        chosen = self.x[:, [places[name] for name in names]]
        return replace(self, x=chosen, features=names, image_shape=None)

    def locate(self, row: int) -> tuple[str, int]:
        """File and row in it, from 1, of a row number from 0."""
        return locate(self.parts, row)

    def error(self, message: str, row: int, column: str | None = None, hint: str = "") -> DataError:
        """An error about one row, counted from 0."""
        file, place = self.locate(row)
        return DataError(message, file=file, column=column, row=place, hint=hint)


def locate(parts: tuple[FileSpan, ...], row: int) -> tuple[str, int]:
    """File and row in it, from 1, of a row number from 0 over all parts."""
    for part in parts:
        if row < part.rows:
            return part.file, row + 1
        row -= part.rows
    raise IndexError(row)


def pixel_names(height: int, width: int) -> tuple[str, ...]:
    """Names for the features of an image, row by row."""
    return tuple(f"pixel_{row}_{column}" for row in range(height) for column in range(width))


def concatenate(pieces: list[RawDataset]) -> RawDataset:
    """Rows of several files as one.

    Raises:
        DataError: The files do not go together; names the first that is unlike the first file.
    """
    first = pieces[0]
    for piece in pieces[1:]:
        _expect_alike(piece, first)
    if len(pieces) == 1:
        return first
    labels = [piece.labels for piece in pieces if piece.labels is not None]
    return RawDataset(
        x=np.concatenate([piece.x for piece in pieces]),
        labels=np.concatenate(labels) if labels else None,
        features=first.features,
        label=first.label,
        parts=tuple(part for piece in pieces for part in piece.parts),
        list_column=first.list_column,
        image_shape=first.image_shape,
    )


def _expect_alike(piece: RawDataset, first: RawDataset) -> None:
    if piece.list_column != first.list_column:
        column, kind = piece.columns[0], "numbers" if piece.list_column is None else "lists"
        raise DataError(f"holds {kind}, in {first.file} not", file=piece.file, column=column)
    if piece.x.shape[1] != first.x.shape[1]:
        raise DataError(
            f"{piece.x.shape[1]} features, but {first.file} has {first.x.shape[1]}", file=piece.file
        )
    if piece.labels is None or first.labels is None:
        return
    if piece.labels.shape[1:] != first.labels.shape[1:]:
        raise DataError(
            f"{piece.labels.shape[1]} targets, but {first.file} has {first.labels.shape[1]}",
            file=piece.file,
            column=piece.label[0],
        )
    here, there = (
        "texts" if rows.targets.dtype == object else "numbers" for rows in (piece, first)
    )
    if here != there:
        raise DataError(
            f"labels are {here} here and {there} in {first.file}",
            file=piece.file,
            column=piece.label[0],
        )
