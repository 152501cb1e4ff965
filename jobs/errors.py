"""The errors of jobs: what the user passed, and what a run depends on."""

from sumgrad.model.errors import SumgradError


class JobError(SumgradError):
    """Something about a job that its owner can correct."""


class SpecError(JobError):
    """A job spec that cannot be used; the key has a file and a line where they are known."""

    def __init__(self, message: str, *, key: str = "", hint: str = "") -> None:
        super().__init__(f"{key}: {message}" if key else message, hint=hint)
        self.key = key


class DataNotFound(JobError):
    """The spec names a file, a column or a format that does not exist."""


class DataError(JobError):
    """Data that cannot be trained on; rows count from 1, without header lines."""

    def __init__(
        self,
        message: str,
        *,
        file: str = "",
        column: str | None = None,
        row: int | None = None,
        hint: str = "",
    ) -> None:
        column_text = "" if column is None else f"column '{column}'"
        row_text = "" if row is None else f"row {row}"
        location = ", ".join(filter(None, (file, column_text, row_text)))
        super().__init__(f"{location}: {message}" if location else message, hint=hint)
        self.file = file
        self.column = column
        self.row = row


class TrackingError(JobError):
    """The MLflow store cannot be reached or does not know the run."""


class TrackingUnreachable(TrackingError):
    """The MLflow store does not answer now, and may do so later."""


class LoginRefused(TrackingError):
    """The MLflow server requires another login, or denies this user the request."""


class ModelNotFound(JobError):
    """No run or saved model has that name, or the model is damaged."""


class ModelNotSaved(JobError):
    """The trained model could not be written."""


class CheckpointError(JobError):
    """A checkpoint that is damaged or belongs to another job."""


class RunNotFound(JobError):
    """No run has that name, or several have."""


class RunLocked(JobError):
    """Another process is working on this run."""


class Interrupted(JobError):
    """A signal stopped the run: exit code 130 for the keyboard's, 143 for a termination."""

    def __init__(self, message: str, exit_code: int, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class ClusterConfigError(JobError):
    """No cluster was selected, or its configuration cannot be used."""


class JobNotFound(JobError):
    """The cluster has no job of that name, or several."""


class JobLost(JobNotFound):
    """The cluster knew this job a moment ago and does not any more."""


class SubmissionError(JobError):
    """A job that cannot be submitted as it is."""


class ServiceUnreachable(JobError):
    """The cluster takes no jobs: it is away, refuses the token, or runs another version."""
