"""From a spec to arrays that are ready for training: read, held out, encoded, scaled."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sumgrad.jobs.data.compatibility import check_range
from sumgrad.jobs.data.digest import digest_sources
from sumgrad.jobs.data.non_digits import add_out_of_distribution
from sumgrad.jobs.data.readers.sources import read_dataset
from sumgrad.jobs.data.row_locations import RowLocations
from sumgrad.jobs.data.schema import DataSchema, Scaling
from sumgrad.jobs.data.splits import RawSplit, divide, read_sources
from sumgrad.jobs.data.targets import infer_schema
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.support.memory import available_bytes, check_memory_for_rows
from sumgrad.model.validation import Array

#: Raw rows that become the model's input example.
_EXAMPLE_ROWS = 3


@dataclass(frozen=True)
class Dataset:
    """Dataset ready for training.

    Attributes:
        x: Scaled features, (N, D), of the job's dtype.
        d: Targets; see `sumgrad.jobs.data.schema.TargetKind`.
        source: Where they came from, for a person.
        digest: Of the raw rows, 32 hexadecimal digits.
        origin: Where each row came from.
    """

    x: Array
    d: NDArray[np.generic]
    source: str
    digest: str
    origin: RowLocations

    @property
    def count(self) -> int:
        """N."""
        return len(self.x)


@dataclass(frozen=True)
class PreparedData:
    """All rows of a job.

    Attributes:
        schema: What they mean; goes with the model.
        train: Training rows.
        validation: None without them.
        test: None without them.
        example: A few raw rows, (n, D).
        digest: Of all that was read, 64 hexadecimal digits; whatever is held out or scaled.
        non_digits: For a reject class: the test's non-digits by kind, trained kinds and unseen.
    """

    schema: DataSchema
    train: Dataset
    validation: Dataset | None
    test: Dataset | None
    example: NDArray[Any]
    digest: str
    out_of_distribution: dict[str, Dataset] = field(default_factory=dict)

    def describe(self, role: str, rows: Sequence[int]) -> str:
        """Files and rows of some rows of a role."""
        own = {"train": self.train, "validation": self.validation, "test": self.test}[role]
        return "" if own is None else own.origin.describe(rows)


def prepare(spec: JobSpec) -> PreparedData:
    """Read and prepare a job's data.

    Raises:
        DataNotFound: A file or a column is missing.
        DataError: Dataset that cannot be trained on; names file, column and row.
            or that memory has no room for.
        SpecError: Data and spec do not fit each other.
    """
    numbers = spec.task == "regression"
    read = read_dataset(
        spec.data.train,
        "train",
        spec.data.label_columns,
        spec.data.feature_columns,
        numbers=numbers,
    )
    schema = infer_schema(spec, read)
    sources = read_sources(spec, read, schema)
    roles, non_digits = add_out_of_distribution(spec, divide(spec, sources), read.image_shape)
    shared = read.list_column is not None or read.image_shape is not None
    scaling = Scaling.fit(spec.data.scaling, roles["train"].x, shared=shared)
    schema, dtype = replace(schema, scaling=scaling), spec.model.dtype
    for source in sources.values():
        check_range(source, scaling, dtype)
    _expect_room(list(roles.values()), schema, dtype, read.file)
    ready = {role: _ready(rows, schema, dtype) for role, rows in roles.items()}
    return PreparedData(
        schema=schema,
        train=ready["train"],
        validation=ready.get("validation"),
        test=ready.get("test"),
        example=read.x[:_EXAMPLE_ROWS],
        digest=digest_sources(sources.items()),
        out_of_distribution={
            kind: _ready(rows, schema, dtype) for kind, rows in non_digits.items()
        },
    )


def _expect_room(roles: list[RawSplit], schema: DataSchema, dtype: str, file: str) -> None:
    """Raise unless memory has room for scaled rows, and for their targets of one column a class."""
    columns = schema.outputs if schema.kind == "one_hot" else 0
    numbers = sum(rows.x.size + len(rows.x) * columns for rows in roles)
    check_memory_for_rows(numbers * np.dtype(dtype).itemsize, file, free=available_bytes())


def _ready(raw: RawSplit, schema: DataSchema, dtype: str) -> Dataset:
    x = schema.scaling.apply(raw.x, dtype)
    return Dataset(x, schema.encode(raw.labels, dtype), raw.source, raw.digest(), raw.origin)
