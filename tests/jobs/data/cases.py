"""Specs and files that tests of data share."""

from pathlib import Path
from typing import Any

from sumgrad.jobs.data.prepare import PreparedData, prepare
from sumgrad.jobs.spec.schema import JobSpec

SOFTMAX = {"activation": "softmax"}
SIGMOID = {"layers": [{"units": 1, "activation": "sigmoid"}]}
REGRESSION = {"layers": [{"units": 1}], "divergence": "l2"}


def outputs(units: int, divergence: str = "kl", **layer: Any) -> dict[str, Any]:
    """Return the model section of a network with this number of softmax outputs."""
    return {"layers": [{"units": units} | SOFTMAX | layer], "divergence": divergence}


def job(model: dict[str, Any], *, seed: int = 0, **data: Any) -> JobSpec:
    """Return a job on this data."""
    data = {key: str(value) if isinstance(value, Path) else value for key, value in data.items()}
    return JobSpec.model_validate({"name": "job", "seed": seed, "model": model, "data": data})


def prepared(model: dict[str, Any], *, seed: int = 0, **data: Any) -> PreparedData:
    """Return the prepared data of such a job."""
    return prepare(job(model, seed=seed, **data))


def write_csv(path: Path, head: str, *lines: str) -> Path:
    """Write a CSV file, and return its path."""
    path.write_text("\n".join((head, *lines, "")))
    return path
