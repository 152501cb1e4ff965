"""The record of a run, ``run.json``: its identity, its metadata, and how it ended."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from sumgrad.jobs.config.tracking_uri import resolve_tracking_uri
from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.support.text import one_line
from sumgrad.jobs.tracking.metadata import CHECKED, Line, PathPart, RunEnd, RunMetadata


def _check_uri(uri: str) -> str:
    """Check a tracking URI; the path of a database file must be absolute."""
    try:
        resolved = resolve_tracking_uri(uri, Path("/"))
    except SpecError as error:
        raise ValueError(error.message) from None
    if uri.startswith("sqlite:") and resolved != uri:
        raise ValueError("must name an absolute path")
    return uri


#: The order of these texts is the order of the times.
_Time = Annotated[
    str, StringConstraints(pattern=r"^\d{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\+00:00$")
]


@dataclass(frozen=True, config=CHECKED)
class RunRecord:
    """What ``run.json`` holds.

    Attributes:
        run_id: The name of the directory, and of the run in MLflow.
        key: A tag that no other run in MLflow has.
        started: In UTC.
        tracking_uri: Without secrets.
        signature: What the weights depend on; see `sumgrad.jobs.runs.signature`.
        end: None while the run is running, and if its process was killed.
        format: The version of this file's format.
    """

    run_id: PathPart
    key: PathPart
    started: _Time
    tracking_uri: Annotated[Line, AfterValidator(_check_uri)]
    metadata: RunMetadata
    signature: Mapping[str, Any]
    end: RunEnd | None = None
    format: Literal[2] = 2

    def to_json(self) -> str:
        """Return the text of ``run.json``."""
        return _ADAPTER.dump_json(self, indent=1).decode() + "\n"

    @classmethod
    def from_json(cls, text: bytes) -> "RunRecord":
        """Parse and check the text of ``run.json``.

        Raises:
            ValueError: Names the first field that is missing, unknown or wrong.
        """
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in problem["loc"])
            prefix = f"the field '{field}': " if field else ""
            raise ValueError(prefix + one_line(problem["msg"])) from None


_ADAPTER = TypeAdapter(RunRecord)


def now() -> str:
    """Return the current time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
