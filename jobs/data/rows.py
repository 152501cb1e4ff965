"""Rows as they were read: numbers not yet scaled, labels as they stand, and their origin."""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from jobs.errors import DataError, DataNotFound
from model.checks import nearest


@dataclass(frozen=True)
class Part:
    """Consecutive rows from one file."""

    file: str
    rows: int


@dataclass(frozen=True)
class RawRows:
    """Rows of one or more files.

    Attributes:
        x: Features, (N, D), of whatever numeric type they were stored in.
        labels: (N,) whole numbers or texts; (N, K) numbers for a regression; None if not read.
        features: D names.
        list_column: The column that holds all features as a list, or None.
        label: The label columns' names.
        parts: The files in their order.
        image_shape: Height and width, where rows are images.
    """

    x: NDArray[Any]
    labels: NDArray[Any] | None
    features: tuple[str, ...]
    label: tuple[str, ...]
    parts: tuple[Part, ...]
    list_column: str | None = None
    image_shape: tuple[int, int] | None = None

    @property
    def count(self) -> int:
        """N."""
        return len(self.x)

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
                    f"{self.parts[0].file} has no feature '{name}'", hint=nearest(name, places)
                )
        chosen = self.x[:, [places[name] for name in names]]
        return replace(self, x=chosen, features=names, image_shape=None)

    def locate(self, row: int) -> tuple[str, int]:
        """File and row in it, from 1, of a row number from 0."""
        for part in self.parts:
            if row < part.rows:
                return part.file, row + 1
            row -= part.rows
        raise IndexError(row)

    def error(self, message: str, row: int, column: str | None = None, hint: str = "") -> DataError:
        """An error about one row."""
        file, place = self.locate(row)
        return DataError(message, file=file, column=column, row=place, hint=hint)


def pixel_names(height: int, width: int) -> tuple[str, ...]:
    """Names for the features of an image, row by row."""
    return tuple(f"pixel_{row}_{column}" for row in range(height) for column in range(width))


def concatenate(pieces: list[RawRows]) -> RawRows:
    """Rows of several files as one.

    Raises:
        DataError: Their features differ in number.
    """
    first = pieces[0]
    for piece in pieces[1:]:
        if piece.x.shape[1] != first.x.shape[1]:
            raise DataError(
                f"{piece.x.shape[1]} features, but {first.parts[0].file} has {first.x.shape[1]}",
                file=piece.parts[0].file,
            )
    if len(pieces) == 1:
        return first
    labels = [piece.labels for piece in pieces if piece.labels is not None]
    if len({array.dtype.kind == "O" for array in labels}) > 1:
        odd = next(p for p in pieces if p.labels is not None and p.labels.dtype.kind == "O")
        raise DataError(
            f"labels are texts here and numbers in {first.parts[0].file}", file=odd.parts[0].file
        )
    return RawRows(
        x=np.concatenate([piece.x for piece in pieces]),
        labels=np.concatenate(labels) if labels else None,
        features=first.features,
        label=first.label,
        parts=tuple(part for piece in pieces for part in piece.parts),
        list_column=first.list_column,
        image_shape=first.image_shape,
    )
