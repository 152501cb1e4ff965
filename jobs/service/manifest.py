"""The manifest of a submitted job: one JSON file, sent to the cluster beside the job's data.

`sumgrad.jobs.service.host` reads it there. It holds no secrets: Ray keeps what it is sent and shows
it to every client that has the cluster's token.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from sumgrad.jobs.errors import SubmissionError
from sumgrad.jobs.service.ids import CLUSTER_CODE, check_job_id
from sumgrad.jobs.service.versions import Versions
from sumgrad.jobs.support.memory import read_small_file
from sumgrad.jobs.support.validation import first_problem

MANIFEST_FILE = "job.json"
#: The folder of uploaded data beside the manifest, with one folder for each split; and the start of
#: a path on the cluster's head.
DATA_FOLDER, FILE_SCHEME = "data", "file://"
#: The line of the log that holds the run's result as JSON starts with it.
RESULT_PREFIX = "result: "
#: Python on the cluster's head. The variable names it where it is not the first 'python' of PATH.
PYTHON = "${SUMGRAD_PYTHON:-python}"
#: The command that Ray runs in the folder of the manifest.
ENTRYPOINT = f"{PYTHON} -P -m sumgrad.jobs.service.host"
_MAX_BYTES = 1 << 22


class JobManifest(BaseModel):
    """An attempt to run a job, as it is submitted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    #: Number of this set of keys; another version of sumgrad may read the file.
    format: Literal[2] = 2
    #: Also the name of the job's folder on the cluster.
    job_id: Annotated[str, AfterValidator(check_job_id)]
    attempt: Annotated[int, Field(ge=1)]
    #: What the user set in the spec; for the rest the cluster's defaults hold. None for an attempt
    #: that resumes an earlier one.
    spec_yaml: str | None
    versions: Versions  #: Of the machine that submits the job.
    #: ``key=value`` each, for an attempt that resumes an earlier one.
    overrides: tuple[str, ...] = ()
    has_code: bool = False  #: Whether sumgrad's code is sent along.
    allow_version_mismatch: bool = False
    #: Whether other code than that of earlier attempts may resume the run.
    allow_code_change: bool = False
    tags: Mapping[str, str] = {}  #: For the run in MLflow: the user, the commit.

    @property
    def code(self) -> str:
        """The value of `CODE_KEY`."""
        return "local" if self.has_code else CLUSTER_CODE

    def write(self, folder: Path) -> None:
        """Write the manifest into a folder."""
        (folder / MANIFEST_FILE).write_text(self.model_dump_json(indent=1), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read it; raise `SubmissionError` if it is missing, damaged or of another version."""
        path = folder / MANIFEST_FILE
        try:
            text = read_small_file(path, _MAX_BYTES)
            document = from_json(text)
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise SubmissionError(f"{path}: {first_problem(error, cls, document)}") from None
        except (OSError, ValueError) as error:
            raise SubmissionError(f"{path} cannot be read: {error}") from None
