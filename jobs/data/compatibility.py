"""Check that rows fit the schema of training: features, targets, labels and range."""

import numpy as np
from numpy.typing import DTypeLike

from sumgrad.jobs.data.dataset import RawDataset
from sumgrad.jobs.data.schema import DataSchema, Label, Scaling
from sumgrad.jobs.errors import DataError

_LISTED_CLASSES = 12


def check_width(rows: RawDataset, schema: DataSchema) -> None:
    """Raise unless rows have the features, and for a regression the targets, of training.

    Raises:
        DataError: Names the file and both numbers.
    """
    width = rows.x.shape[1]
    if width != schema.width:
        message = f"expected {schema.width} features as in training, found {width}"
        raise DataError(message, file=rows.file)
    expected, found = schema.image_shape, rows.image_shape
    if expected is not None and found is not None and expected != found:
        raise DataError(
            f"expected images of {expected[0]}×{expected[1]} as in training, "
            f"found {found[0]}×{found[1]}",
            file=rows.file,
        )
    if schema.kind == "numbers" and rows.labels is not None:
        targets = rows.labels.shape[1]
        if targets != schema.outputs:
            raise DataError(
                f"expected {schema.outputs} target{'s' if schema.outputs > 1 else ''} "
                f"as in training, found {targets}",
                file=rows.file,
                column=rows.label[0],
            )


def check_known_labels(rows: RawDataset, known: tuple[Label, ...]) -> None:
    """Raise unless every label occurs in training. A regression has no known labels.

    Raises:
        DataError: Names file, row and label.
    """
    if not known or rows.labels is None:
        return
    allowed = set(known)
    for row, label in enumerate(rows.labels.tolist()):
        if label not in allowed:
            raise rows.error(
                f"the label {str(label)!r} does not occur in training; "
                f"known: {format_classes(known)}",
                row,
                rows.label[0],
            )


def check_range(rows: RawDataset, scaling: Scaling, dtype: DTypeLike) -> None:
    """Raise unless all scaled features and all targets are finite in this dtype.

    Raises:
        DataError: Names file, column, row and value.
    """
    # Scaling is monotone, so the smallest and the largest value of a feature decide.
    limits = np.stack([rows.x.min(axis=0), rows.x.max(axis=0)])
    with np.errstate(over="ignore"):
        infinite = np.argwhere(~np.isfinite(scaling.apply(limits, dtype)))
    if infinite.size:
        limit, feature = infinite[0]
        value = limits[limit, feature]
        row = int(np.flatnonzero(rows.x[:, feature] == value)[0])
        column = rows.list_column or rows.features[feature]
        raise rows.error(f"{value:g} is too large for {np.dtype(dtype)}", row, column)
    if rows.labels is not None and rows.labels.ndim > 1:
        too_large = np.argwhere(np.abs(rows.labels) > np.finfo(np.dtype(dtype)).max)
        if too_large.size:
            row, target = too_large[0]
            value, column = rows.labels[row, target], rows.label[min(target, len(rows.label) - 1)]
            raise rows.error(f"{value:g} is too large for {np.dtype(dtype)}", int(row), column)


def format_classes(classes: tuple[Label, ...]) -> str:
    """Return the first classes as text for a message."""
    text = ", ".join(map(str, classes[:_LISTED_CLASSES]))
    return text if len(classes) <= _LISTED_CLASSES else f"{text}, …"
