"""Read rows that have to fit the schema of training, and check them: columns, labels and range."""

from dataclasses import replace

import numpy as np
from numpy.typing import DTypeLike

from sumgrad.jobs.data.dataset import RawDataset
from sumgrad.jobs.data.readers.sources import read_dataset
from sumgrad.jobs.data.schema import DataSchema, Label, Scaling
from sumgrad.jobs.errors import DataError
from sumgrad.jobs.support.text import plural

_LISTED_CLASSES = 12


def read_like_training(
    source: str,
    split: str,
    schema: DataSchema,
    known: tuple[Label, ...],
    *,
    with_labels: bool = True,
) -> RawDataset:
    """Read rows with the columns of training, and with the known labels or without labels.

    Raises:
        DataNotFound: A file or a column does not exist.
        DataError: Rows differ from those of training; names file and row.
    """
    label = schema.label if with_labels else ()
    is_regression = schema.kind == "numbers"
    rows = read_dataset(source, split, label, schema.columns_to_read, numeric_labels=is_regression)
    check_width(rows, schema)
    return match_labels(rows, known)


def check_width(rows: RawDataset, schema: DataSchema) -> None:
    """Raise `DataError` unless rows have as many features, and targets, as training."""
    is_regression = schema.kind == "numbers" and rows.labels is not None
    targets = rows.targets.shape[1] if is_regression else schema.outputs
    column = None
    if rows.x.shape[1] != schema.width:
        expected, found = f"{schema.width} features", str(rows.x.shape[1])
    elif schema.image_shape and rows.image_shape and schema.image_shape != rows.image_shape:
        sizes = [f"{height}×{width}" for height, width in (schema.image_shape, rows.image_shape)]
        expected, found = f"images of {sizes[0]}", sizes[1]
    elif targets != schema.outputs:
        expected, found, column = plural(schema.outputs, "target"), str(targets), rows.label[0]
    else:
        return
    message = f"expected {expected} as in training, found {found}"
    raise DataError(message, file=rows.file, column=column)


def match_labels(rows: RawDataset, known: tuple[Label, ...]) -> RawDataset:
    """Return rows whose labels have the types of training: a string is a number if it is one there.

    The types of a CSV file are inferred file by file; one string makes all its labels strings.
    A regression has no known labels. A label that does not occur in training is a `DataError`.
    """
    if not known or rows.labels is None:
        return rows
    labels, is_known = rows.labels.tolist(), set(known)
    if is_known.issuperset(labels):
        return rows
    by_text = {str(label): label for label in known}
    for row, label in enumerate(labels):
        if label not in is_known:
            if str(label) not in by_text:
                raise rows.error(
                    f"the label {str(label)!r} does not occur in training; "
                    f"known: {format_classes(known)}",
                    row,
                    rows.label[0],
                )
            labels[row] = by_text[str(label)]
    return replace(rows, labels=np.array(labels, dtype=object))


def check_range(rows: RawDataset, scaling: Scaling, dtype: DTypeLike) -> None:
    """Raise `DataError` unless all scaled features and all targets are finite in this dtype."""
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
