"""Prepare the data of a job: read, hold out, encode and scale the rows."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sumgrad.jobs.data.compatibility import check_range
from sumgrad.jobs.data.dataset import RawDataset, RowLocations, digest_values
from sumgrad.jobs.data.out_of_distribution import add_out_of_distribution
from sumgrad.jobs.data.readers.guard import check_stop, stoppable
from sumgrad.jobs.data.readers.sources import read_dataset
from sumgrad.jobs.data.schema import DataSchema, Scaling
from sumgrad.jobs.data.splits import RawSplit, divide, read_sources
from sumgrad.jobs.data.targets import infer_schema
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.support.memory import check_memory_for_rows
from sumgrad.model.validation import Array

_EXAMPLE_ROWS = 3  #: Number of raw rows in the model's input example.


@dataclass(frozen=True)
class Dataset:
    """Rows that are ready for training."""

    x: Array  #: Scaled features, (N, D), of the job's dtype.
    d: NDArray[np.generic]  #: Targets; see `sumgrad.jobs.data.schema.TargetKind`.
    source: str
    digest: str  #: Digest of the raw rows, 32 hexadecimal digits.
    origin: RowLocations

    @property
    def count(self) -> int:
        """Number of rows, N."""
        return len(self.x)


@dataclass(frozen=True)
class PreparedData:
    """All rows of a job."""

    schema: DataSchema
    train: Dataset
    validation: Dataset | None
    test: Dataset | None
    example: NDArray[Any]  #: A few raw rows, (n, D).
    digest: str  #: Digest of everything that was read, 64 hexadecimal digits.
    #: With a reject class, the made test images by kind.
    out_of_distribution: dict[str, Dataset] = field(default_factory=dict)

    def describe(self, split: str, rows: Sequence[int]) -> str:
        """Return the files and rows that some rows of a split were read from."""
        dataset: Dataset | None = getattr(self, split)
        return "" if dataset is None else dataset.origin.describe(rows)


def prepare(spec: JobSpec, raise_if_stopped: Callable[[], None] = lambda: None) -> PreparedData:
    """Read and prepare the data of a job.

    Between blocks of data it calls ``raise_if_stopped``, whose error ends the preparation.

    Raises:
        DataNotFound: A file or a column does not exist.
        DataError: Rows cannot be trained on, or do not fit into memory; names file, column and row.
        SpecError: Data and spec do not fit together.
    """
    with stoppable(raise_if_stopped):
        return _prepare(spec)


def _prepare(spec: JobSpec) -> PreparedData:
    label, columns = spec.data.label_columns, spec.data.feature_columns
    is_regression = spec.task == "regression"
    train = read_dataset(spec.data.train, "train", label, columns, numeric_labels=is_regression)
    schema = infer_schema(spec, train)
    sources = read_sources(spec, train, schema)
    splits, made = add_out_of_distribution(spec, divide(spec, sources), train.image_shape)
    check_stop()
    is_shared = train.list_column is not None or train.image_shape is not None
    scaling = Scaling.fit(spec.data.scaling, splits["train"].x, shared=is_shared)
    schema, dtype = replace(schema, scaling=scaling), spec.model.dtype
    for source in sources.values():
        check_range(source, scaling, dtype)
    _check_memory(list(splits.values()), schema, dtype, train.file)
    datasets = {split: _encode(rows, schema, dtype) for split, rows in splits.items()}
    return PreparedData(
        schema=schema,
        train=datasets["train"],
        validation=datasets.get("validation"),
        test=datasets.get("test"),
        example=train.x[:_EXAMPLE_ROWS],
        digest=_digest(sources.items()),
        out_of_distribution={kind: _encode(rows, schema, dtype) for kind, rows in made.items()},
    )


def _check_memory(splits: list[RawSplit], schema: DataSchema, dtype: str, file: str) -> None:
    """Raise unless scaled rows, and one-hot targets with a column per class, fit into memory."""
    columns = schema.outputs if schema.kind == "one_hot" else 0
    numbers = sum(rows.x.size + len(rows.x) * columns for rows in splits)
    check_memory_for_rows(numbers * np.dtype(dtype).itemsize, file)


def _encode(raw: RawSplit, schema: DataSchema, dtype: str) -> Dataset:
    check_stop()
    x, d = schema.scaling.apply(raw.x, dtype), schema.encode(raw.labels, dtype)
    return Dataset(x, d, raw.source, digest_values(raw.x, raw.labels), raw.origin)


def _digest(sources: Iterable[tuple[str, RawDataset]]) -> str:
    """Return the digest of all sources of a job.

    It covers features, labels, their names and the splits; neither the names of files, nor which
    rows are held out, nor scaling.
    """
    digest = hashlib.sha256()
    for split, rows in sources:
        values = digest_values(rows.x, rows.targets)
        digest.update(repr((split, rows.features, rows.label, values)).encode())
    return digest.hexdigest()
