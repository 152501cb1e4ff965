"""The record of a run, ``run.json``, and the metadata that MLflow gets: parameters, tags, data."""

import getpass
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Lt
from pydantic import AfterValidator, ConfigDict, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from sumgrad.jobs.config.tracking_uri import resolve_tracking_uri
from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.support.memory import read_small_file
from sumgrad.jobs.support.text import one_line

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

RECORD = "run.json"
_MAX_RECORD_BYTES = 1 << 24  #: A longer file is not sumgrad's.
# MLflow's limits. It refuses longer values, so they are cut.
MAX_PARAMETER_CHARACTERS = 6000
MAX_TAG_CHARACTERS = 8000
MAX_DIGEST_CHARACTERS = 36
GIT_TIMEOUT_S = 3.0

Status = Literal["FINISHED", "FAILED", "KILLED"]
Context = Literal["training", "validation", "test"]  #: MLflow's names for the splits of a spec.


def _check_printable(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("must be one line of printable characters")
    return text


def _check_uri(uri: str) -> str:
    """Check a tracking URI; the path of a database file must be absolute."""
    try:
        resolved = resolve_tracking_uri(uri, Path("/"))
    except SpecError as error:
        raise ValueError(error.message) from None
    if uri.startswith("sqlite:") and resolved != uri:
        raise ValueError("must name an absolute path")
    return uri


def _check_absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


Line = Annotated[str, AfterValidator(_check_printable)]
#: Text that is safe as one part of a path.
PathPart = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z][0-9A-Za-z._-]{0,127}$")]
Count = Annotated[int, Ge(0), Lt(2**63)]
#: In UTC; the order of these texts is the order of the times.
Time = Annotated[
    str, StringConstraints(pattern=r"^\d{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\+00:00$")
]
#: Records are files that other programs may have edited, so every field is checked.
CHECKED = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True, config=CHECKED)
class DatasetMetadata:
    """A data set that a run reads, from a path or a URI, with the digest of its content."""

    context: Context
    name: Line
    source: str
    digest: Line
    rows: Count


@dataclass(frozen=True, config=CHECKED)
class RunMetadata:
    """What is known of a run when it starts."""

    name: PathPart  #: The job's name.
    experiment: str
    spec: Mapping[str, Any]  #: The resolved spec; becomes the parameters.
    spec_yaml: str  #: The same as a file; becomes the artifact ``spec.yaml``.
    datasets: Sequence[DatasetMetadata]
    tags: Mapping[str, str]  #: Such as the seed and the version of sumgrad.
    folder: Annotated[Path, AfterValidator(_check_absolute)]  #: Where the user started the job.


@dataclass(frozen=True, config=CHECKED)
class RunEnd:
    """How a run ended."""

    status: Status
    stop_reason: Annotated[str, AfterValidator(one_line)]
    #: Final tags for MLflow, besides the reason.
    tags: Mapping[str, str] = field(default_factory=dict)
    step: Count = 0  #: The epoch of the saved weights.
    can_resume: bool = True  #: Whether resuming makes sense.


@dataclass(frozen=True, config=CHECKED)
class RunRecord:
    """What ``run.json`` holds: the run's identity, its metadata, and how it ended."""

    run_id: PathPart  #: The name of the directory, and of the run in MLflow.
    #: A tag, unique in MLflow, that finds the run if its id was not recorded.
    key: PathPart
    started: Time
    tracking_uri: Annotated[Line, AfterValidator(_check_uri)]  #: Without secrets.
    metadata: RunMetadata
    signature: Mapping[str, Any]  #: What the weights depend on; see `sumgrad.jobs.runs.signature`.
    end: RunEnd | None = None  #: None while the run is running, and if its process was killed.
    format: Literal[2] = 2  #: The version of this file's format.

    def to_json(self) -> str:
        """Return the text of ``run.json``."""
        return TypeAdapter(RunRecord).dump_json(self, indent=1).decode() + "\n"

    @classmethod
    def read(cls, directory: Path) -> "RunRecord":
        """Read and check the record in a run's directory, or raise OSError.

        A ValueError names the first field that is missing, unknown or wrong.
        """
        text = read_small_file(directory / RECORD, _MAX_RECORD_BYTES)
        try:
            return TypeAdapter(RunRecord).validate_json(text)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in problem["loc"])
            prefix = f"the field '{field}': " if field else ""
            raise ValueError(prefix + one_line(problem["msg"])) from None


def flatten(spec: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested mappings as dotted keys; list items by their index.

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
            is_text = isinstance(value, str | int | float) and not isinstance(value, bool)
            yield name, str(value) if is_text else json.dumps(value)


def source_tags(folder: Path) -> dict[str, str]:
    """Return MLflow's own tags for user, program and the git commit of a folder."""
    program = {"mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}
    return {"mlflow.user": "unknown", **user_tags(), **program, **git_tags(folder)}


def user_tags() -> dict[str, str]:
    """Return the user; empty for a user id without a name, as it is common in containers."""
    with suppress(OSError, KeyError):
        return {"mlflow.user": getpass.getuser()}
    return {}


def git_tags(folder: Path) -> dict[str, str]:
    """Return commit and dirty flag of the repository around a folder; empty without one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
            command, capture_output=True, text=True, check=True, timeout=GIT_TIMEOUT_S
        )
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        changes = git("status", "--porcelain", "--untracked-files=no")
    except (subprocess.SubprocessError, OSError):
        return {}
    return {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.dirty": "true" if changes else "false",
    }


def dataset_inputs(datasets: Sequence[DatasetMetadata]) -> "list[DatasetInput]":
    """Return the data sets as MLflow entities."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return [
        DatasetInput(
            Dataset(
                name=dataset.name,
                digest=dataset.digest[:MAX_DIGEST_CHARACTERS],
                source_type="local",
                source=json.dumps({"uri": dataset.source}),
                profile=json.dumps({"num_rows": dataset.rows}),
            ),
            tags=[InputTag("mlflow.data.context", dataset.context)],
        )
        for dataset in datasets
    ]
