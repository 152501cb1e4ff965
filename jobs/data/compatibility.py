"""What rows must be for a schema that training has fixed: as wide, labelled alike, in range."""

import numpy as np
from numpy.typing import DTypeLike

from sumgrad.jobs.data.dataset import RawDataset
from sumgrad.jobs.data.schema import DataSchema, Label, Scaling
from sumgrad.jobs.errors import DataError

_SHOWN_CLASSES = 12


def check_width(read: RawDataset, schema: DataSchema) -> None:
    """Raise unless rows have training's features, and a regression's rows its targets.

    Raises:
        DataError: Names the file and both numbers.
    """
    found = read.x.shape[1]
    if found != schema.width:
        raise DataError(
            f"expected {schema.width} features as in training, found {found}", file=read.file
        )
    if (
        None not in (read.image_shape, schema.image_shape)
        and read.image_shape != schema.image_shape
    ):
        shapes = [
            "×".join(map(str, shape or ())) for shape in (schema.image_shape, read.image_shape)
        ]
        raise DataError(
            f"expected images of {shapes[0]} as in training, found {shapes[1]}", file=read.file
        )
    if schema.kind == "numbers" and read.labels is not None:
        targets = read.labels.shape[1]
        if targets != schema.outputs:
            raise DataError(
                f"expected {schema.outputs} target{'s' if schema.outputs > 1 else ''} "
                f"as in training, found {targets}",
                file=read.file,
                column=read.label[0],
            )


def check_known_labels(read: RawDataset, known: tuple[Label, ...]) -> None:
    """Raise unless training has seen every label; a regression has none to know.

    Raises:
        DataError: Names file, row and label.
    """
    if not known or read.labels is None:
        return
    allowed = set(known)
    for row, label in enumerate(read.labels.tolist()):
        if label not in allowed:
            raise read.error(
                f"the label {str(label)!r} was never seen in training; known: {shown(known)}",
                row,
                read.label[0],
            )


def check_range(read: RawDataset, scaling: Scaling, dtype: DTypeLike) -> None:
    """Raise unless all features, once scaled, and all targets are finite in this dtype.

    Raises:
        DataError: Names file, column, row and value.
    """
    # Scaling is monotone, so that each feature's two ends speak for all its values.
    ends = np.stack([read.x.min(axis=0), read.x.max(axis=0)])
    with np.errstate(over="ignore"):
        odd = np.argwhere(~np.isfinite(scaling.apply(ends, dtype)))
    if odd.size:
        end, feature = odd[0]
        value = ends[end, feature]
        row = int(np.flatnonzero(read.x[:, feature] == value)[0])
        column = read.list_column or read.features[feature]
        raise read.error(f"{value:g} is too large for {np.dtype(dtype)}", row, column)
    if read.labels is not None and read.labels.ndim > 1:
        too_large = np.argwhere(np.abs(read.labels) > np.finfo(np.dtype(dtype)).max)
        if too_large.size:
            row, target = too_large[0]
            value, column = read.labels[row, target], read.label[min(target, len(read.label) - 1)]
            raise read.error(f"{value:g} is too large for {np.dtype(dtype)}", int(row), column)


def shown(classes: tuple[Label, ...]) -> str:
    """The classes for a message, not more than a line can hold."""
    text = ", ".join(map(str, classes[:_SHOWN_CLASSES]))
    return text if len(classes) <= _SHOWN_CLASSES else f"{text}, …"
