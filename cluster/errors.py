"""The errors of the cluster package."""

from collections.abc import Sequence

from sumgrad.model.errors import SumgradError


class ClusterError(SumgradError):
    """A failure between the driver and its workers."""


class ClusterUnreachable(ClusterError):
    """A Ray cluster that does not answer, or lacks the resources that the job requests."""


class FingerprintMismatch(ClusterError):
    """A worker whose arithmetic differs from the driver's."""


class WorkerLost(ClusterError):
    """An unexpected end of a worker's process; ``activity`` is a phrase such as "summing"."""

    def __init__(self, worker: int, activity: str, *, hint: str = "") -> None:
        super().__init__(f"worker {worker} was lost while {activity}", hint=hint)


class MicrobatchFailed(ClusterError):
    """An exception in a microbatch, or in one of several, with its cause as one line.

    ``activity`` is a phrase such as "summing". ``rows`` are indices in the source: the failing row
    if it is known, else all rows of the microbatch; empty if the error does not concern rows.
    ``location`` is where the user finds them.
    """

    def __init__(
        self,
        worker: int,
        microbatches: range,
        activity: str,
        cause: str,
        source: str,
        rows: Sequence[int],
        location: str = "",
    ) -> None:
        where = f" ({location})" if location else ""
        what = f"microbatch {microbatches[0]}"
        if len(microbatches) > 1:
            what = f"one of the microbatches {microbatches[0]} to {microbatches[-1]}"
        super().__init__(f"worker {worker} failed on {what}{where} while {activity}: {cause}")
        self.microbatch = microbatches[0]
        self.cause = cause
        self.source = source
        self.rows = rows
        self._arguments = worker, microbatches, activity, cause, source, rows

    def with_location(self, location: str) -> "MicrobatchFailed":
        """Return the same error with the location of its rows in the message."""
        return MicrobatchFailed(*self._arguments, location)


class CountMismatch(ClusterError):
    """Sums that do not cover the step's instances exactly once."""


class Diverged(ClusterError):
    """A loss, gradient or weight that is not finite; steps count from 1 over the whole run."""

    def __init__(self, epoch: int, step: int, what: str, cause: str, *, hint: str = "") -> None:
        super().__init__(f"{what} is not finite at epoch {epoch}, step {step}: {cause}", hint=hint)
        self.epoch = epoch
        self.step = step


class ConnectionClosed(ClusterError):
    """A connection whose other end is gone."""


class ProtocolError(ClusterError):
    """A message that no driver or worker of this version sends."""


class AuthenticationError(ClusterError):
    """A connection from a client that does not know the job's secret."""
