"""Errors of jobs: in what the user passed, and in what a run depends on."""

from sumgrad.model.errors import SumgradError


class JobError(SumgradError):
    """An error in a job that the user can fix."""


class SpecError(JobError):
    """A job spec that cannot be used; the key has a file and a line where they are known."""

    def __init__(self, message: str, *, key: str = "", hint: str = "") -> None:
        super().__init__(f"{key}: {message}" if key else message, hint=hint)
        self.key = key


class DataNotFound(JobError):
    """A file, a column or a format in the spec that does not exist."""


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
    """An MLflow store that cannot be used, or that does not know the run."""


class TrackingUnreachable(TrackingError):
    """An MLflow store that does not answer now, and may do so later."""


class LoginRefused(TrackingError):
    """An MLflow server that requires another login, or denies this user the request."""


class ModelNotFound(JobError):
    """A name that no run or saved model has, or a model that is missing or damaged."""


class ModelNotSaved(JobError):
    """A trained model that could not be written."""


class CheckpointError(JobError):
    """A checkpoint that is damaged or belongs to another job."""


class RunNotFound(JobError):
    """A name that no usable run has."""


class RunAmbiguous(JobError):
    """A prefix that the ids of several runs share."""


class RunDamaged(JobError):
    """A run whose files another program has changed, or that cannot be read."""


class RunLocked(JobError):
    """A run that another process trains or delivers."""


class Interrupted(JobError):
    """A run that a signal stopped: exit code 130 for the keyboard's, 143 for a termination."""

    def __init__(self, message: str, exit_code: int, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class ClusterConfigError(JobError):
    """A configuration of clusters that cannot be used, or that selects none."""


class JobNotFound(JobError):
    """A name that no job on the cluster has, or several."""


class JobLost(JobNotFound):
    """A job that disappeared from the cluster while a command followed it."""


class SubmissionError(JobError):
    """A job that cannot be submitted as it is."""


class ServiceUnreachable(JobError):
    """A cluster that takes no jobs: it is away or refuses the token."""


class VersionMismatch(JobError):
    """Other versions on the cluster than on the machine that submitted the job."""
