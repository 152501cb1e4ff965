"""Relative paths in a spec mean the folder that the command was run in, and keep meaning it."""

import os
from pathlib import Path
from typing import Any

from sumgrad.jobs.config.tracking_uri import resolve_tracking_uri
from sumgrad.jobs.data.readers.sources import BUILTIN
from sumgrad.jobs.spec.schema import JobSpec


def resolve_paths(spec: JobSpec, folder: Path) -> JobSpec:
    """The spec with absolute paths, for parts of it are used while the current folder is another.

    Raises:
        SpecError: A tracking URI that MLflow does not take.
    """
    data: dict[str, Any] = {
        key: anchor(value, folder)
        for key in ("train", "validation", "test")
        if isinstance(value := getattr(spec.data, key), str)
    }
    uri = resolve_tracking_uri(spec.tracking.uri, folder)
    return spec.model_copy(
        update={
            "data": spec.data.model_copy(update=data),
            "tracking": spec.tracking.model_copy(update={"uri": uri}),
            "output": anchor(spec.output, folder),
        }
    )


def anchor(path: str, folder: Path) -> str:
    """A path as an absolute one; shipped data and URIs stay as they are."""
    if path in BUILTIN or "://" in path:
        return path
    return os.path.normpath(folder / Path(path).expanduser())
