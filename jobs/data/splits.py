"""Divide the rows into training, validation and test rows: by file, or by held-out fractions."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sumgrad.jobs.data.compatibility import check_known_labels, check_width
from sumgrad.jobs.data.dataset import RawDataset
from sumgrad.jobs.data.digest import digest_values
from sumgrad.jobs.data.labels import match_label_types
from sumgrad.jobs.data.readers.guard import check_stop
from sumgrad.jobs.data.readers.sources import read_dataset
from sumgrad.jobs.data.row_locations import RowLocations
from sumgrad.jobs.data.schema import DataSchema
from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.model.random_streams import RandomStream, Stream

Indices = NDArray[np.intp]
Split = Literal["train", "validation", "test"]
_HeldOut = Literal["validation", "test"]
#: The test rows are held out first, so that they do not depend on whether there is a validation.
_HELD_OUT: tuple[_HeldOut, ...] = ("test", "validation")
_STREAMS: Mapping[_HeldOut, Stream] = MappingProxyType(
    {"test": Stream.TEST_SPLIT, "validation": Stream.VALIDATION_SPLIT}
)


@dataclass(frozen=True)
class RawSplit:
    """Raw rows of a split.

    Attributes:
        x: Features, (N, D), not yet scaled.
        labels: Not yet encoded, (N,) or (N, K).
        source: Description of the source.
        origin: Where each row was read.
    """

    x: NDArray[Any]
    labels: NDArray[Any]
    source: str
    origin: RowLocations

    def digest(self) -> str:
        """Return the digest of the values, 32 hexadecimal digits."""
        return digest_values(self.x, self.labels)


def read_sources(spec: JobSpec, train: RawDataset, schema: DataSchema) -> dict[Split, RawDataset]:
    """Return the rows of every split that has its own source, with the training rows.

    Raises:
        DataNotFound: A file or a column does not exist.
        DataError: Rows differ from the training rows in features or labels.
    """
    sources: dict[Split, RawDataset] = {"train": train}
    for split in _HELD_OUT:
        source = getattr(spec.data, split)
        if isinstance(source, str):
            sources[split] = _read_source(spec, source, split, schema)
    return sources


def _read_source(spec: JobSpec, source: str, split: Split, schema: DataSchema) -> RawDataset:
    is_regression = schema.kind == "numbers"
    label, columns = spec.data.label_columns, schema.columns_to_read
    rows = read_dataset(source, split, label, columns, numeric_labels=is_regression)
    check_width(rows, schema)
    if not is_regression:
        rows = replace(rows, labels=match_label_types(rows.targets, schema.seen))
    check_known_labels(rows, schema.seen)
    return rows


def divide(spec: JobSpec, sources: Mapping[Split, RawDataset]) -> dict[Split, RawSplit]:
    """Return every split that the spec asks for.

    Raises:
        SpecError: A fraction leaves a split without rows.
    """
    train = sources["train"]
    kept = np.arange(train.count)
    splits: dict[Split, RawSplit] = {}
    for split in _HELD_OUT:
        check_stop()
        wanted = getattr(spec.data, split)
        if split in sources:
            splits[split] = _take(sources[split], np.arange(sources[split].count), wanted)
        elif wanted is not None:
            held_out, kept = _hold_out(spec, split, wanted, train.targets, kept)
            splits[split] = _take(train, held_out, f"{spec.data.train} ({split} rows)")
    splits["train"] = _take(train, kept, spec.data.train)
    return splits


def stratified_split(
    labels: NDArray[Any], fraction: float, *, by_class: bool, stream: RandomStream
) -> tuple[Indices, Indices]:
    """Return row numbers to keep and to hold out, each ascending.

    A class with two or more rows has rows in both parts; the only row of a class is kept.

    Args:
        labels: (N,) or (N, K).
        fraction: Fraction of the rows to hold out, of each class where ``by_class``.
        by_class: Whether labels are classes.
        stream: Chooses the rows.

    >>> stream = RandomStream(0, Stream.TEST_SPLIT)
    >>> labels = np.array([0, 0, 0, 0, 1, 1])
    >>> kept, held_out = stratified_split(labels, 0.5, by_class=True, stream=stream)
    >>> len(kept), len(held_out)
    (3, 3)
    """
    is_held_out = np.zeros(len(labels), dtype=bool)
    for rows in _rows_by_class(labels) if by_class else [np.arange(len(labels))]:
        count = round(len(rows) * fraction)
        if by_class:
            count = min(max(count, 1), len(rows) - 1)
        if count:
            is_held_out[rows[stream.permutation(len(rows))[:count]]] = True
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def _rows_by_class(labels: NDArray[Any]) -> list[Indices]:
    """Return the rows of each class, ascending; the classes in the order of their texts."""
    values = labels.tolist()
    index = {label: number for number, label in enumerate(sorted(set(values), key=str))}
    groups = np.fromiter((index[value] for value in values), dtype=np.intp, count=len(values))
    rows = np.argsort(groups, kind="stable")
    return np.split(rows, np.cumsum(np.bincount(groups))[:-1])


def _hold_out(
    spec: JobSpec, split: _HeldOut, fraction: float, labels: NDArray[Any], rows: Indices
) -> tuple[Indices, Indices]:
    """Return the row numbers held out of these rows, and those kept."""
    by_class = spec.task == "classification"
    stream = RandomStream(spec.seed, _STREAMS[split])
    kept, held_out = stratified_split(labels[rows], fraction, by_class=by_class, stream=stream)
    for part, problem in ((held_out, "is not a single row"), (kept, "leaves no training rows")):
        if not part.size:
            raise SpecError(f"{fraction:g} of {len(rows)} rows {problem}", key=f"data.{split}")
    return rows[held_out], rows[kept]


def _take(dataset: RawDataset, rows: Indices, source: str) -> RawSplit:
    if len(rows) == dataset.count:
        origin = RowLocations(dataset.spans, None, dataset.count)
        return RawSplit(dataset.x, dataset.targets, source, origin)
    origin = RowLocations(dataset.spans, rows, len(rows))
    return RawSplit(dataset.x[rows], dataset.targets[rows], source, origin)
