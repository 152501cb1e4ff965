"""From a spec to arrays that are ready for training: read, held out, encoded, scaled."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.data.expectations import expect_known, expect_width
from jobs.data.reading import read_rows
from jobs.data.reject import expect_kinds, make_non_digits
from jobs.data.rows import RawRows
from jobs.data.schema import DataSchema, Scaling
from jobs.data.splitting import hold_out
from jobs.data.targets import schema_for
from jobs.errors import SpecError
from jobs.spec import JobSpec
from model.checks import Array

#: Sets the streams of a job's seed apart; 1 is the order of the rows, in cluster.plan.
_STREAMS = {"test": 2, "validation": 3, "non-digits": 4}
#: Raw rows that become the model's input example.
_EXAMPLE_ROWS = 3


@dataclass(frozen=True)
class Rows:
    """Rows ready for training.

    Attributes:
        x: Scaled features, (N, D), of the job's dtype.
        d: Targets; see `jobs.data.schema.TargetKind`.
        source: Where they came from, for a person.
        digest: Of the raw rows, 32 hexadecimal digits.
    """

    x: Array
    d: NDArray[np.generic]
    source: str
    digest: str

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
        non_digits: For a reject class: the test's non-digits by kind, trained kinds and unseen.
        example: A few raw rows, (n, D).
    """

    schema: DataSchema
    train: Rows
    validation: Rows | None
    test: Rows | None
    example: NDArray[Any]
    non_digits: dict[str, Rows] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of all rows and their roles: equal for equal data, whatever the scaling."""
        parts = [rows.digest if rows else "-" for rows in (self.train, self.validation, self.test)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class _Raw:
    """Raw rows of a role after holding out: the features and labels that it has."""

    x: NDArray[Any]
    labels: NDArray[Any]
    source: str

    def digest(self) -> str:
        """Of types, shapes and bytes."""
        digest = hashlib.sha256(f"{self.x.dtype} {self.x.shape} {self.labels.shape}".encode())
        digest.update(np.ascontiguousarray(self.x).data)
        if self.labels.dtype == object:
            digest.update("\0".join(map(str, self.labels.tolist())).encode())
        else:
            digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()[:32]


def prepare(spec: JobSpec) -> PreparedData:
    """Read and prepare a job's data.

    Raises:
        DataNotFound: A file or a column is missing.
        DataError: Rows that cannot be trained on; names file, column and row.
        SpecError: Data and spec do not fit each other.
    """
    if spec.data.reject is not None:
        expect_kinds(spec.data.reject.kinds, "data.reject.kinds")
        expect_kinds(spec.data.reject.unseen, "data.reject.unseen")
    read = _read(spec, spec.data.train, "train", spec_features(spec))
    schema = schema_for(spec, read)
    raw = _roles(spec, read, schema)
    raw, non_digits = _with_non_digits(spec, raw, read.image_shape)
    shared = read.list_column is not None or read.image_shape is not None
    scaling = Scaling.fit(spec.data.scaling, raw["train"].x, shared=shared)
    schema = replace(schema, scaling=scaling)
    ready = {role: _ready(rows, schema, spec.model.dtype) for role, rows in raw.items()}
    return PreparedData(
        schema=schema,
        train=ready["train"],
        validation=ready.get("validation"),
        test=ready.get("test"),
        example=read.x[:_EXAMPLE_ROWS],
        non_digits={
            kind: _ready(rows, schema, spec.model.dtype) for kind, rows in non_digits.items()
        },
    )


def spec_features(spec: JobSpec) -> tuple[str, ...] | None:
    """The feature columns that a spec names."""
    features = spec.data.features
    return (features,) if isinstance(features, str) else features


def spec_label(spec: JobSpec) -> tuple[str, ...]:
    """The label columns that a spec names."""
    return (spec.data.label,) if isinstance(spec.data.label, str) else spec.data.label


def _read(spec: JobSpec, source: str, role: str, features: Sequence[str] | None) -> RawRows:
    return read_rows(
        source,
        role,
        spec_label(spec),
        tuple(features) if features is not None else None,
        numbers=spec.task == "regression",
    )


def _roles(spec: JobSpec, read: RawRows, schema: DataSchema) -> dict[str, _Raw]:
    """The raw rows of each role: from files of their own, or held out from the training rows."""
    labels = _labels(read)
    kept = np.arange(read.count)
    raw: dict[str, _Raw] = {}
    # The test rows first, so that they do not depend on whether there is a validation.
    for role in ("test", "validation"):
        source = getattr(spec.data, role)
        if isinstance(source, str):
            raw[role] = _own_file(spec, source, role, schema)
        elif source is not None:
            keep, held = hold_out(
                labels[kept],
                source,
                by_class=spec.task == "classification",
                generator=stream(spec.seed, role),
            )
            if not held.size:
                raise SpecError(
                    f"{source:g} of {len(kept)} rows is not a single row", place=f"data.{role}"
                )
            rows, kept = kept[held], kept[keep]
            raw[role] = _Raw(read.x[rows], labels[rows], f"{spec.data.train} ({role} rows)")
    if not kept.size:
        raise SpecError("no training rows are left", place="data.test")
    everything = len(kept) == read.count
    raw["train"] = _Raw(
        read.x if everything else read.x[kept],
        labels if everything else labels[kept],
        spec.data.train,
    )
    return raw


def _own_file(spec: JobSpec, source: str, role: str, schema: DataSchema) -> _Raw:
    """Rows from a file of their own, which must be as the training rows are."""
    read = _read(spec, source, role, schema.columns_to_read)
    expect_width(read, schema)
    expect_known(read, schema.seen)
    return _Raw(read.x, _labels(read), source)


def _labels(read: RawRows) -> NDArray[Any]:
    if read.labels is None:
        raise ValueError("these rows were read without labels")
    return read.labels


def stream(seed: int, name: str) -> np.random.Generator:
    """The random stream of one use of a job's seed."""
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(_STREAMS[name],))
    return np.random.Generator(np.random.Philox(sequence))


def _ready(raw: _Raw, schema: DataSchema, dtype: str) -> Rows:
    x = schema.scaling.apply(raw.x, dtype)
    return Rows(x, schema.encode(raw.labels, dtype), raw.source, raw.digest())


def _with_non_digits(
    spec: JobSpec, raw: dict[str, _Raw], shape: tuple[int, int] | None
) -> tuple[dict[str, _Raw], dict[str, _Raw]]:
    """Each role with its own non-digits added, and the test's non-digits by kind."""
    reject = spec.data.reject
    if reject is None:
        return raw, {}
    if shape is None:
        raise SpecError("non-digits are made from images", place="data.reject")
    generator = stream(spec.seed, "non-digits")
    by_kind: dict[str, _Raw] = {}
    extended: dict[str, _Raw] = {}
    for role in sorted(raw):
        rows = raw[role]
        made = []
        for kind in reject.kinds:
            count = max(1, round(len(rows.x) * reject.ratio / len(reject.kinds)))
            x = make_non_digits(kind, rows.x, rows.labels, shape, count, generator=generator)
            made.append(_Raw(x, _rejected(count, reject.label), f"{kind} from {rows.source}"))
        extended[role] = _joined([rows, *made])
        if role == "test":
            by_kind = dict(zip(reject.kinds, made, strict=True))
    if "test" in raw:
        digits = raw["test"]
        for kind in reject.unseen:
            count = len(digits.x)
            x = make_non_digits(kind, digits.x, digits.labels, shape, count, generator=generator)
            by_kind[kind] = _Raw(x, _rejected(count, reject.label), f"{kind} from {digits.source}")
    return extended, by_kind


def _rejected(count: int, label: str) -> NDArray[Any]:
    return np.full(count, label, dtype=object)


def _joined(pieces: list[_Raw]) -> _Raw:
    return _Raw(
        np.concatenate([piece.x.astype(pieces[0].x.dtype, copy=False) for piece in pieces]),
        np.concatenate([piece.labels.astype(object) for piece in pieces]),
        pieces[0].source,
    )
