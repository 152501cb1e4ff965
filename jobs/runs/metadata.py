"""What MLflow is told of a run when it starts."""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Literal

from sumgrad.jobs.data.prepare import PreparedData
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.spec.text import dump_spec
from sumgrad.jobs.tracking import DatasetMetadata, RunMetadata, redact

#: A role of rows, and what MLflow calls it.
_CONTEXTS: dict[str, Literal["training", "validation", "test"]] = {
    "train": "training",
    "validation": "validation",
    "test": "test",
}


def describe_run(
    spec: JobSpec, data: PreparedData, microbatch_size: int, tags: Mapping[str, str] | None = None
) -> RunMetadata:
    """Parameters, tags and datasets of a run; no secrets of the tracking URI."""
    uri = redact(spec.tracking.uri)
    spec = spec.model_copy(update={"tracking": spec.tracking.model_copy(update={"uri": uri})})
    return RunMetadata(
        name=spec.name,
        experiment=spec.tracking.experiment,
        spec=spec.model_dump(mode="json"),
        spec_yaml=dump_spec(spec),
        datasets=_datasets(spec, data),
        tags={
            "sumgrad.version": metadata.version("sumgrad"),
            "sumgrad.seed": str(spec.seed),
            "sumgrad.microbatch_size": str(microbatch_size),
            "sumgrad.address": spec.cluster.address,
            "sumgrad.data_digest": data.digest,
            **(tags or {}),
        },
        folder=Path.cwd(),
    )


def _datasets(spec: JobSpec, data: PreparedData) -> list[DatasetMetadata]:
    return [
        DatasetMetadata(
            context=context,
            name=f"{spec.name}-{role}",
            source=rows.source,
            digest=rows.digest,
            rows=rows.count,
        )
        for role, context in _CONTEXTS.items()
        if (rows := getattr(data, role)) is not None
    ]
