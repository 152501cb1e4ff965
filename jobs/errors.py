"""The errors of jobs: what the user passed, and what a run depends on."""

from sumgrad.model.errors import SumgradError


class JobError(SumgradError):
    """Something about a job that its owner can correct."""


class SpecError(JobError):
    """A job spec that cannot be used.

    Args:
        message: One line that names the cause.
        key: Where in the spec: ``model.layers[1].units``, with a file and line where known.
        hint: How to correct it.
    """

    def __init__(self, message: str, *, key: str = "", hint: str = "") -> None:
        super().__init__(f"{key}: {message}" if key else message, hint=hint)
        self.key = key


class DataNotFound(JobError):
    """The spec names a file, a column or a format that does not exist."""


class DataError(JobError):
    """Data that cannot be trained on; the message names file, column and row.

    Args:
        message: What is wrong.
        file: The file.
        column: The column, where there is one.
        row: The row, from 1, header lines not counted.
        hint: How to correct it.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str = "",
        column: str | None = None,
        row: int | None = None,
        hint: str = "",
    ) -> None:
        location = [file] if file else []
        if column is not None:
            location.append(f"column '{column}'")
        if row is not None:
            location.append(f"row {row}")
        super().__init__(f"{', '.join(location)}: {message}" if location else message, hint=hint)
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
    """A signal stopped the run.

    Args:
        message: What was interrupted.
        exit_code: 130 for an interrupt from the keyboard, 143 for a termination.
        hint: What to do next.
    """

    def __init__(self, message: str, exit_code: int, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class ClusterConfigError(JobError):
    """No cluster was selected, or its configuration cannot be used."""


class JobNotFound(JobError):
    """The cluster has no job of that name, or several."""


class JobLost(JobError):
    """The cluster knew this job a moment ago and does not any more."""


class SubmissionError(JobError):
    """A job that cannot be submitted as it is."""


class ServiceUnreachable(JobError):
    """The cluster takes no jobs: it is away, refuses the token, or runs another version."""
