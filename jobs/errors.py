"""The errors of jobs, whole: what a person handed in, and what the run stands on."""

from sumgrad.model.errors import SumgradError


class JobError(SumgradError):
    """Something about a job that its owner can put right."""

    exit_code = 2


class SpecError(JobError):
    """A job spec that cannot be used; the message names the key in it.

    Args:
        message: One line that names the cause.
        key: Where in the spec: ``model.layers[1].units``, with a file and line where known.
    """

    def __init__(self, message: str, *, key: str = "", hint: str = "") -> None:
        super().__init__(f"{key}: {message}" if key else message, hint=hint)
        self.key = key


class DataNotFound(JobError):
    """The spec names a file, a column or a format that is not there."""


class DataError(JobError):
    """Data that is there but cannot be trained on; the message names file, column and row.

    Args:
        message: What is wrong.
        file: The file.
        column: The column, where one is to blame.
        row: The row, from 1, header lines not counted.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        file: str = "",
        column: str | None = None,
        row: int | None = None,
        hint: str = "",
    ) -> None:
        key = [file] if file else []
        if column is not None:
            key.append(f"column '{column}'")
        if row is not None:
            key.append(f"row {row}")
        super().__init__(": ".join([", ".join(key), message]) if key else message, hint=hint)
        self.file = file
        self.column = column
        self.row = row


class TrackingError(JobError):
    """The MLflow store cannot be reached or does not know the run."""

    exit_code = 3


class ModelNotFound(JobError):
    """No run and no saved model under that name, or one that is damaged."""


class CheckpointError(JobError):
    """A checkpoint that is damaged, or that another job's run left."""


class RunNotFound(JobError):
    """No run under that name, or several."""


class RunLocked(JobError):
    """Another process has this run in hand."""


class TrackingUnreachable(TrackingError):
    """The MLflow store does not answer now, and may do so later."""


class LoginRefused(TrackingError):
    """The MLflow server wants another login than it was shown, or gives this one no right to it."""


class Interrupted(JobError):
    """The run was asked to stop by a signal.

    Args:
        message: What was interrupted.
        code: 130 for an interrupt from the keyboard, 143 for a termination.
        hint: What to do next.
    """

    def __init__(self, message: str, code: int, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = code  # type: ignore[misc]  # this one's code is known only at run time


class ClusterConfigError(JobError):
    """No cluster was chosen, or what is known of it cannot be used."""


class JobNotFound(JobError):
    """The cluster has no job under that name, or several."""


class JobLost(JobError):
    """The cluster had this job a moment ago, and knows it no more."""

    exit_code = 3


class SubmissionError(JobError):
    """A job that cannot be sent as it is."""


class ServiceUnreachable(JobError):
    """The cluster takes no jobs now: it is away, refuses our token, or is another version."""

    exit_code = 3
