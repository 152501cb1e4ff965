"""What travels to the cluster with a job: one JSON file, and data that were to come along.

`sumgrad.jobs.service.host` reads the file on the cluster. It holds no secrets: Ray keeps what it is
sent and shows it to every client that has the cluster's token.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from sumgrad.jobs.errors import ServiceUnreachable, SubmissionError
from sumgrad.jobs.service.ids import check_job_id
from sumgrad.jobs.service.versions import Versions
from sumgrad.jobs.support.memory import read_small_file

MANIFEST_FILE = "job.json"
#: A line of the log with the run's result as JSON begins so.
RESULT_PREFIX = "result: "
#: The folder of uploaded data beside it.
DATA_FOLDER = "data"
FORMAT = 1
_LONGEST = 1 << 22


@dataclass(frozen=True)
class JobManifest:
    """A job as it is handed in.

    Attributes:
        job_id: Its id.
        attempt: From 1.
        spec_yaml: What its owner said, without defaults: those of the cluster hold. None for an
            attempt that goes on with an earlier one.
        overrides: ``key=value`` for such an attempt.
        versions: Of where it was handed in.
        has_code: Whether sumgrad's own code travels along.
        expected: What it has to find where it runs; None if any versions will do.
        tags: For MLflow: who handed it in, from which commit.
    """

    job_id: str
    attempt: int
    spec_yaml: str | None
    versions: Versions
    overrides: tuple[str, ...] = ()
    has_code: bool = False
    expected: Versions | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Write the file into a folder."""
        (folder / MANIFEST_FILE).write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the file of a folder.

        Raises:
            SubmissionError: There is none, or it is another version's.
        """
        try:
            value: dict[str, Any] = json.loads(read_small_file(folder / MANIFEST_FILE, _LONGEST))
            if value["format"] != FORMAT:
                raise SubmissionError(f"{MANIFEST_FILE} has format {value['format']}, not {FORMAT}")
            value["versions"] = Versions.from_json(value["versions"])
            if value.get("expected") is not None:
                value["expected"] = Versions.from_json(value["expected"])
            value["overrides"] = tuple(value["overrides"])
            request = cls(**value)
            request._expect_sound()
        except (
            *(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError),
        ) as error:
            raise SubmissionError(f"{folder / MANIFEST_FILE} cannot be used: {error}") from None
        except ServiceUnreachable as error:
            raise SubmissionError(
                f"{folder / MANIFEST_FILE} cannot be used: {error.message}"
            ) from None
        return request

    def _expect_sound(self) -> None:
        # The id becomes the name of a folder.
        check_job_id(self.job_id)
        texts = [*self.overrides, *self.tags, *self.tags.values()]
        if self.spec_yaml is not None:
            texts.append(self.spec_yaml)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("something in it is no text")
        if type(self.attempt) is not int or self.attempt < 1 or type(self.has_code) is not bool:
            raise TypeError("its numbers make no sense")
