"""Which rows train, validate and test: from files of their own, or held out of the training's."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sumgrad.jobs.data.compatibility import check_known_labels, check_width
from sumgrad.jobs.data.dataset import RawDataset
from sumgrad.jobs.data.digest import digest_values
from sumgrad.jobs.data.labels import in_training_terms
from sumgrad.jobs.data.readers.sources import read_dataset
from sumgrad.jobs.data.row_locations import RowLocations
from sumgrad.jobs.data.schema import DataSchema
from sumgrad.jobs.data.stratified import Indices, stratified_split
from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.model.random_streams import RandomStream, Stream

Split = Literal["train", "validation", "test"]
_HeldOut = Literal["validation", "test"]
#: The test rows come first, so that they do not depend on whether there is a validation.
_HELD_OUT: tuple[_HeldOut, ...] = ("test", "validation")
_STREAMS: Mapping[_HeldOut, Stream] = MappingProxyType(
    {"test": Stream.TEST_SPLIT, "validation": Stream.VALIDATION_SPLIT}
)


@dataclass(frozen=True)
class RawSplit:
    """Raw rows of a role.

    Attributes:
        x: Features, (N, D), not yet scaled.
        labels: As they stand, (N,) or (N, K).
        source: Where they came from, for a person.
        origin: Where each of them came from.
    """

    x: NDArray[Any]
    labels: NDArray[Any]
    source: str
    origin: RowLocations

    def digest(self) -> str:
        """Of the values; 32 hexadecimal digits."""
        return digest_values(self.x, self.labels)


def read_sources(spec: JobSpec, train: RawDataset, schema: DataSchema) -> dict[Split, RawDataset]:
    """The rows of every role that has a file of its own, the training rows among them.

    Raises:
        DataNotFound: A file or a column is missing.
        DataError: Rows that are not as the training rows are.
    """
    sources: dict[Split, RawDataset] = {"train": train}
    for role in _HELD_OUT:
        source = getattr(spec.data, role)
        if isinstance(source, str):
            sources[role] = _own_file(spec, source, role, schema)
    return sources


def _own_file(spec: JobSpec, source: str, role: Split, schema: DataSchema) -> RawDataset:
    numbers = schema.kind == "numbers"
    read = read_dataset(
        source, role, spec.data.label_columns, schema.columns_to_read, numbers=numbers
    )
    check_width(read, schema)
    if not numbers:
        read = replace(read, labels=in_training_terms(read.targets, schema.seen))
    check_known_labels(read, schema.seen)
    return read


def divide(spec: JobSpec, sources: dict[Split, RawDataset]) -> dict[Split, RawSplit]:
    """The rows of every role that the spec asks for.

    Raises:
        SpecError: A fraction leaves a role without rows.
    """
    train = sources["train"]
    kept = np.arange(train.count)
    roles: dict[Split, RawSplit] = {}
    for role in _HELD_OUT:
        fraction = getattr(spec.data, role)
        if role in sources:
            everything = np.arange(sources[role].count)
            roles[role] = _take(sources[role], everything, fraction)
        elif fraction is not None:
            held, kept = _hold_out(spec, role, fraction, train.targets, kept)
            roles[role] = _take(train, held, f"{spec.data.train} ({role} rows)")
    roles["train"] = _take(train, kept, spec.data.train)
    return roles


def _hold_out(
    spec: JobSpec, role: _HeldOut, fraction: float, labels: NDArray[Any], rows: Indices
) -> tuple[Indices, Indices]:
    """Row numbers held out of these rows, and those kept."""
    by_class = spec.task == "classification"
    stream = RandomStream(spec.seed, _STREAMS[role])
    keep, held = stratified_split(labels[rows], fraction, by_class=by_class, stream=stream)
    for left, what in ((held, "is not a single row"), (keep, "leaves no training rows")):
        if not left.size:
            raise SpecError(f"{fraction:g} of {len(rows)} rows {what}", key=f"data.{role}")
    return rows[held], rows[keep]


def _take(read: RawDataset, rows: Indices, source: str) -> RawSplit:
    if len(rows) == read.count:
        origin = RowLocations(read.parts, None, read.count)
        return RawSplit(read.x, read.targets, source, origin)
    origin = RowLocations(read.parts, rows, len(rows))
    return RawSplit(read.x[rows], read.targets[rows], source, origin)
