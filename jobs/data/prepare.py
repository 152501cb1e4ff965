"""Prepare the data of a job: read, hold out, encode and scale the rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sumgrad.jobs.data.compatibility import check_range
from sumgrad.jobs.data.digest import digest_sources
from sumgrad.jobs.data.out_of_distribution import add_out_of_distribution
from sumgrad.jobs.data.readers.guard import check_stop, stoppable
from sumgrad.jobs.data.readers.sources import read_dataset
from sumgrad.jobs.data.row_locations import RowLocations
from sumgrad.jobs.data.schema import DataSchema, Scaling
from sumgrad.jobs.data.splits import RawSplit, divide, read_sources
from sumgrad.jobs.data.targets import infer_schema
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.support.memory import check_memory_for_rows
from sumgrad.model.validation import Array

#: Number of raw rows in the model's input example.
_EXAMPLE_ROWS = 3


@dataclass(frozen=True)
class Dataset:
    """Rows that are ready for training.

    Attributes:
        x: Scaled features, (N, D), of the job's dtype.
        d: Targets; see `sumgrad.jobs.data.schema.TargetKind`.
        source: Description of the source.
        digest: Digest of the raw rows, 32 hexadecimal digits.
        origin: Where each row was read.
    """

    x: Array
    d: NDArray[np.generic]
    source: str
    digest: str
    origin: RowLocations

    @property
    def count(self) -> int:
        """Number of rows, N."""
        return len(self.x)


@dataclass(frozen=True)
class PreparedData:
    """All rows of a job.

    Attributes:
        schema: Meaning of the columns; saved with the model.
        train: Training rows.
        validation: Validation rows, or None.
        test: Test rows, or None.
        example: A few raw rows, (n, D).
        digest: Digest of everything that was read, 64 hexadecimal digits.
        out_of_distribution: With a reject class, the made test images by kind.
    """

    schema: DataSchema
    train: Dataset
    validation: Dataset | None
    test: Dataset | None
    example: NDArray[Any]
    digest: str
    out_of_distribution: dict[str, Dataset] = field(default_factory=dict)

    def describe(self, split: str, rows: Sequence[int]) -> str:
        """Return the files and rows that some rows of a split were read from."""
        dataset = {"train": self.train, "validation": self.validation, "test": self.test}[split]
        return "" if dataset is None else dataset.origin.describe(rows)


def prepare(spec: JobSpec, check_stop: Callable[[], None] = lambda: None) -> PreparedData:
    """Read and prepare the data of a job.

    Args:
        spec: The job.
        check_stop: Called between blocks of data; what it raises ends the preparation.

    Raises:
        DataNotFound: A file or a column does not exist.
        DataError: Rows cannot be trained on, or do not fit into memory; names file, column and row.
        SpecError: Data and spec do not fit together.
    """
    with stoppable(check_stop):
        return _prepare(spec)


def _prepare(spec: JobSpec) -> PreparedData:
    train = read_dataset(
        spec.data.train,
        "train",
        spec.data.label_columns,
        spec.data.feature_columns,
        numeric_labels=spec.task == "regression",
    )
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
        digest=digest_sources(sources.items()),
        out_of_distribution={kind: _encode(rows, schema, dtype) for kind, rows in made.items()},
    )


def _check_memory(splits: list[RawSplit], schema: DataSchema, dtype: str, file: str) -> None:
    """Raise unless scaled rows, and one-hot targets with a column per class, fit into memory."""
    columns = schema.outputs if schema.kind == "one_hot" else 0
    numbers = sum(rows.x.size + len(rows.x) * columns for rows in splits)
    check_memory_for_rows(numbers * np.dtype(dtype).itemsize, file)


def _encode(raw: RawSplit, schema: DataSchema, dtype: str) -> Dataset:
    check_stop()
    x = schema.scaling.apply(raw.x, dtype)
    return Dataset(x, schema.encode(raw.labels, dtype), raw.source, raw.digest(), raw.origin)
