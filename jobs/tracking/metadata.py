"""What identifies a run: its parameters, its tags, where it was started, and the data it read."""

import getpass
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

# MLflow's limits; a longer value is refused there, and cut here.
PARAMETER_CHARACTERS = 6000
TAG_CHARACTERS = 8000
DIGEST_CHARACTERS = 36
GIT_SECONDS = 3.0


@dataclass(frozen=True)
class DatasetMetadata:
    """Rows that a run read.

    Args:
        context: What they were for.
        name: A short name.
        source: Where they came from: a path or a URI.
        digest: Identifies the content.
        rows: How many.
    """

    context: Literal["training", "validation", "test"]
    name: str
    source: str
    digest: str
    rows: int


@dataclass(frozen=True)
class RunMetadata:
    """What is known of a run when it starts.

    Args:
        name: The run's name.
        experiment: The experiment it belongs to.
        spec: The resolved spec; becomes the parameters.
        spec_yaml: The same as a file; becomes the artifact ``spec.yaml``.
        datasets: Rows for training, validation and test.
        tags: More tags: seed, microbatch rows, workers, data digest, sumgrad's version, ….
        folder: Where the job was started from: its git commit is noted.
    """

    name: str
    experiment: str
    spec: Mapping[str, Any]
    spec_yaml: str
    datasets: Sequence[DatasetMetadata]
    tags: Mapping[str, str]
    folder: Path


def flatten(spec: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as dotted keys; list items by their index.

    >>> dict(flatten({"model": {"layers": [{"units": 10}]}, "seed": 0, "tags": []}))
    {'model.layers.0.units': '10', 'seed': '0', 'tags': '[]'}
    """
    for key, value in spec.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{name}.")
        elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
            yield from flatten({str(i): item for i, item in enumerate(value)}, f"{name}.")
        else:
            yield name, _text(value)[:PARAMETER_CHARACTERS]


def run_tags(facts: RunMetadata) -> dict[str, str]:
    """MLflow's own tags for who, what and from which commit, and the given ones."""
    source = {
        "mlflow.runName": facts.name,
        "mlflow.user": _user(),
        "mlflow.source.name": Path(sys.argv[0]).name,
        "mlflow.source.type": "LOCAL",
    }
    tags = source | git_tags(facts.folder) | dict(facts.tags)
    return {key: value[:TAG_CHARACTERS] for key, value in tags.items()}


def git_tags(folder: Path) -> dict[str, str]:
    """Commit and dirty flag of the repository around a folder; nothing where there is none."""
    # Checked first: without git there is nothing to say, and nothing to warn of.
    git = shutil.which("git")
    if git is None:
        return {}
    try:
        commit = _git(git, folder, "rev-parse", "HEAD")
        changes = _git(git, folder, "status", "--porcelain", "--untracked-files=no")
    except (subprocess.SubprocessError, OSError):
        return {}
    return {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.dirty": "true" if changes else "false",
    }


def dataset_inputs(datasets: Sequence[DatasetMetadata]) -> "list[DatasetInput]":
    """The datasets as MLflow takes them."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return [
        DatasetInput(
            Dataset(
                name=facts.name,
                digest=facts.digest[:DIGEST_CHARACTERS],
                source_type="local",
                source=json.dumps({"uri": facts.source}),
                profile=json.dumps({"num_rows": facts.rows}),
            ),
            tags=[InputTag("mlflow.data.context", facts.context)],
        )
        for facts in datasets
    ]


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool | list | tuple | dict):
        return json.dumps(value)
    return str(value)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as containers have
        return "unknown"


def _git(git: str, folder: Path, *arguments: str) -> str:
    command = [git, "-C", str(folder), *arguments]
    done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
        command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS
    )
    return done.stdout.strip()
