"""Resolve relative paths of a spec against the folder that the command runs in."""

import os
from pathlib import Path

from sumgrad.jobs.config.tracking_uri import resolve_tracking_uri
from sumgrad.jobs.spec.schema import BUILTIN, JobSpec
from sumgrad.jobs.support.files import expand_user


def resolve_paths(spec: JobSpec, folder: Path) -> JobSpec:
    """Return the spec with absolute paths, because parts of it are used in other folders.

    A tracking URI that MLflow does not accept raises `SpecError`.
    """
    data = {split: _resolve(source, folder) for split, source in spec.data.sources.items()}
    uri = resolve_tracking_uri(spec.tracking.uri, folder)
    return spec.model_copy(
        update={
            "data": spec.data.model_copy(update=data),
            "tracking": spec.tracking.model_copy(update={"uri": uri}),
            "output": _resolve(spec.output, folder),
        }
    )


def _resolve(path: str, folder: Path) -> str:
    if path in BUILTIN or "://" in path:
        return path
    return os.path.normpath(folder / expand_user(path))
