"""Divide the rows into training, validation and test rows: by file, or by held-out fractions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sumgrad.jobs.data.compatibility import read_like_training
from sumgrad.jobs.data.dataset import RawDataset, RowLocations
from sumgrad.jobs.data.readers.guard import check_stop
from sumgrad.jobs.data.schema import DataSchema
from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.model.random_streams import Indices, RandomStream, Stream

Split = Literal["train", "validation", "test"]
#: The test rows are held out first, so that they do not depend on whether there is a validation.
_HELD_OUT: Mapping[Split, Stream] = {
    "test": Stream.TEST_SPLIT,
    "validation": Stream.VALIDATION_SPLIT,
}


@dataclass(frozen=True)
class RawSplit:
    """Rows of a split: features (N, D), not scaled, and labels (N,) or (N, K), not encoded."""

    x: NDArray[Any]
    labels: NDArray[Any]
    source: str
    origin: RowLocations


def read_sources(spec: JobSpec, train: RawDataset, schema: DataSchema) -> dict[Split, RawDataset]:
    """Return the rows of every split that has its own source, with the training rows."""
    sources: dict[Split, RawDataset] = {"train": train}
    for split in _HELD_OUT:
        source = getattr(spec.data, split)
        if isinstance(source, str):
            sources[split] = read_like_training(source, split, schema, schema.seen)
    return sources


def divide(spec: JobSpec, sources: Mapping[Split, RawDataset]) -> dict[Split, RawSplit]:
    """Return every split of the spec; a fraction that leaves one without rows is a SpecError."""
    train = sources["train"]
    kept = np.arange(train.count)
    splits: dict[Split, RawSplit] = {}
    for split, stream in _HELD_OUT.items():
        check_stop()
        wanted = getattr(spec.data, split)
        if split in sources:
            splits[split] = _take(sources[split], np.arange(sources[split].count), wanted)
        elif wanted is not None:
            stay, held_out = stratified_split(
                train.targets[kept],
                wanted,
                by_class=spec.task == "classification",
                stream=RandomStream(spec.seed, stream),
            )
            if not (stay.size and held_out.size):
                problem = "leaves no training rows" if held_out.size else "is not a single row"
                raise SpecError(f"{wanted:g} of {len(kept)} rows {problem}", key=f"data.{split}")
            splits[split] = _take(train, kept[held_out], f"{spec.data.train} ({split} rows)")
            kept = kept[stay]
    splits["train"] = _take(train, kept, spec.data.train)
    return splits


def stratified_split(
    labels: NDArray[Any], fraction: float, *, by_class: bool, stream: RandomStream
) -> tuple[Indices, Indices]:
    """Return row numbers to keep and to hold out, each ascending.

    The labels are classes (N,), of each of which the fraction is held out, or numbers (N, K). A
    class with two or more rows has rows in both parts; the only row of a class is kept.
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
    """Return the rows of each class, ascending; the classes in the order of their strings."""
    values = labels.tolist()
    index = {label: number for number, label in enumerate(sorted(set(values), key=str))}
    groups = np.fromiter((index[value] for value in values), dtype=np.intp, count=len(values))
    rows = np.argsort(groups, kind="stable")
    return np.split(rows, np.cumsum(np.bincount(groups))[:-1])


def _take(dataset: RawDataset, rows: Indices, source: str) -> RawSplit:
    x, labels, numbers = dataset.x, dataset.targets, None
    if len(rows) < dataset.count:
        x, labels, numbers = x[rows], labels[rows], rows
    return RawSplit(x, labels, source, RowLocations(dataset.spans, numbers, len(rows)))
