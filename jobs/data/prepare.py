"""From a spec to arrays that are ready for training: read, held out, encoded, scaled."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sumgrad.jobs.data.compatibility import expect_in_range
from sumgrad.jobs.data.digest import digest_sources
from sumgrad.jobs.data.non_digits import with_non_digits
from sumgrad.jobs.data.readers.sources import read_rows
from sumgrad.jobs.data.row_locations import RowOrigin
from sumgrad.jobs.data.schema import DataSchema, Scaling
from sumgrad.jobs.data.splits import RoleRows, divide, read_sources
from sumgrad.jobs.data.targets import schema_for
from sumgrad.jobs.spec.checks import expect_sound, spec_features, spec_label
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.support.memory import available_bytes, expect_room_for_rows
from sumgrad.model.validation import Array

#: Raw rows that become the model's input example.
_EXAMPLE_ROWS = 3


@dataclass(frozen=True)
class Rows:
    """Rows ready for training.

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
    origin: RowOrigin

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
    train: Rows
    validation: Rows | None
    test: Rows | None
    example: NDArray[Any]
    digest: str
    non_digits: dict[str, Rows] = field(default_factory=dict)

    def describe(self, role: str, rows: Sequence[int]) -> str:
        """Files and rows of some rows of a role."""
        own = {"train": self.train, "validation": self.validation, "test": self.test}[role]
        return "" if own is None else own.origin.describe(rows)


def prepare(spec: JobSpec) -> PreparedData:
    """Read and prepare a job's data.

    Raises:
        DataNotFound: A file or a column is missing.
        DataError: Rows that cannot be trained on; names file, column and row.
            or that memory has no room for.
        SpecError: Data and spec do not fit each other.
    """
    expect_sound(spec)
    numbers = spec.task == "regression"
    read = read_rows(
        spec.data.train, "train", spec_label(spec), spec_features(spec), numbers=numbers
    )
    schema = schema_for(spec, read)
    sources = read_sources(spec, read, schema)
    roles, non_digits = with_non_digits(spec, divide(spec, sources), read.image_shape)
    shared = read.list_column is not None or read.image_shape is not None
    scaling = Scaling.fit(spec.data.scaling, roles["train"].x, shared=shared)
    schema, dtype = replace(schema, scaling=scaling), spec.model.dtype
    for source in sources.values():
        expect_in_range(source, scaling, dtype)
    _expect_room(list(roles.values()), schema, dtype, read.file)
    ready = {role: _ready(rows, schema, dtype) for role, rows in roles.items()}
    return PreparedData(
        schema=schema,
        train=ready["train"],
        validation=ready.get("validation"),
        test=ready.get("test"),
        example=read.x[:_EXAMPLE_ROWS],
        digest=digest_sources(sources.items()),
        non_digits={kind: _ready(rows, schema, dtype) for kind, rows in non_digits.items()},
    )


def _expect_room(roles: list[RoleRows], schema: DataSchema, dtype: str, file: str) -> None:
    """Raise unless memory has room for scaled rows, and for their targets of one column a class."""
    columns = schema.outputs if schema.kind == "one_hot" else 0
    numbers = sum(rows.x.size + len(rows.x) * columns for rows in roles)
    expect_room_for_rows(numbers * np.dtype(dtype).itemsize, file, free=available_bytes())


def _ready(raw: RoleRows, schema: DataSchema, dtype: str) -> Rows:
    x = schema.scaling.apply(raw.x, dtype)
    return Rows(x, schema.encode(raw.labels, dtype), raw.source, raw.digest(), raw.origin)
