"""What MLflow is sent about a run when it starts."""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Literal

from sumgrad.jobs.data.prepare import PreparedData
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.spec.text import dump_spec
from sumgrad.jobs.support.redaction import redact
from sumgrad.jobs.tracking.metadata import DatasetMetadata, RunMetadata, source_tags

#: The roles of data sets in a spec, and MLflow's names for them.
_CONTEXTS: dict[str, Literal["training", "validation", "test"]] = {
    "train": "training",
    "validation": "validation",
    "test": "test",
}


def describe_run(
    spec: JobSpec, data: PreparedData, microbatch_size: int, tags: Mapping[str, str]
) -> RunMetadata:
    """Return parameters, tags and data sets of a run, without secrets."""
    uri = redact(spec.tracking.uri)
    spec = spec.model_copy(update={"tracking": spec.tracking.model_copy(update={"uri": uri})})
    return RunMetadata(
        name=spec.name,
        experiment=spec.tracking.experiment,
        spec=spec.model_dump(mode="json"),
        spec_yaml=dump_spec(spec),
        datasets=[
            DatasetMetadata(context, f"{spec.name}-{role}", rows.source, rows.digest, rows.count)
            for role, context in _CONTEXTS.items()
            if (rows := getattr(data, role)) is not None
        ],
        tags={
            **source_tags(Path.cwd()),
            "sumgrad.version": metadata.version("sumgrad"),
            "sumgrad.seed": str(spec.seed),
            "sumgrad.microbatch_size": str(microbatch_size),
            "sumgrad.address": spec.cluster.address,
            "sumgrad.data_digest": data.digest,
            **tags,
        },
        folder=Path.cwd(),
    )
