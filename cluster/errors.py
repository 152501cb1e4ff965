"""The errors of the cluster, whole. Each carries the facts that a person needs."""

from collections.abc import Sequence

from sumgrad.model.errors import SumgradError


class ClusterError(SumgradError):
    """Something failed between the driver and its workers."""

    exit_code = 3


class ClusterUnreachable(ClusterError):
    """No Ray cluster answered, or it has not what the job asks for."""


class FingerprintMismatch(ClusterError):
    """Workers whose arithmetic differs would not give the same bits."""


class WorkerLost(ClusterError):
    """A worker's process ended in the middle of its work.

    Args:
        worker: The worker's index.
        doing: What it was doing, as a phrase.
    """

    def __init__(self, worker: int, doing: str, *, hint: str = "") -> None:
        super().__init__(f"worker {worker} was lost while {doing}", hint=hint)
        self.worker = worker
        self.doing = doing


class MicrobatchFailed(ClusterError):
    """A microbatch's computation raised.

    Args:
        worker: The worker's index.
        shard: The microbatch's index in its step.
        doing: What it was doing, as a phrase.
        cause: The exception as one line.
        source: Name of the source of rows.
        rows: The source's rows that it was about, from 0: the one to blame where that is known,
            else all of the microbatch; none if it was not about rows.
        place: Where these rows are from, for a person.
    """

    exit_code = 1

    def __init__(
        self,
        worker: int,
        shard: int,
        doing: str,
        cause: str,
        source: str,
        rows: Sequence[int],
        place: str = "",
    ) -> None:
        at = f" ({place})" if place else ""
        super().__init__(f"worker {worker} failed on microbatch {shard}{at} while {doing}: {cause}")
        self.worker = worker
        self.microbatch = shard
        self.doing = doing
        self.cause = cause
        self.source = source
        self.rows = rows

    def with_location(self, place: str) -> "MicrobatchFailed":
        """The same, saying where the rows are from."""
        facts = (self.worker, self.microbatch, self.doing, self.cause, self.source, self.rows)
        return MicrobatchFailed(*facts, place)


class CountMismatch(ClusterError):
    """The sums that came back do not cover the step's instances exactly once."""

    exit_code = 1


class Diverged(ClusterError):
    """A loss or gradient that is not a finite number, noticed before the update.

    Args:
        epoch: The epoch, from 1.
        step: The step, from 1 over the whole run.
        what: What was not finite.
        cause: The likely cause.
    """

    exit_code = 1

    def __init__(self, epoch: int, step: int, what: str, cause: str, *, hint: str = "") -> None:
        super().__init__(f"{what} is not finite at epoch {epoch}, step {step}: {cause}", hint=hint)
        self.epoch = epoch
        self.step = step
        self.what = what
        self.cause = cause


class ConnectionClosed(ClusterError):
    """The other end of a connection is gone."""


class ProtocolError(ClusterError):
    """Something came over a connection that nobody of ours sends."""


class AuthenticationError(ClusterError):
    """A connection from somebody who does not know the job's secret."""
