"""What the driver knows about the step that is being reduced."""

import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from sumgrad.cluster.compute.worker import Task
from sumgrad.cluster.errors import MicrobatchFailed
from sumgrad.cluster.planning.work_stealing import StepSchedule
from sumgrad.cluster.transport.messages import Failed

_MAX_FAILED_WORKERS = 2  #: The step fails once this many workers have raised in one microbatch.
_MAX_FAILURES = 3  #: It fails after this many exceptions in one microbatch, even of one worker.
#: It fails once this many workers have exited or frozen in one microbatch; a few may by chance.
_MAX_LOST_WORKERS = 3
#: Pause before the last attempt: a machine that is lost takes all its workers with it, and until
#: the driver has noticed that, it could give the microbatch to one of them.
_PAUSE_S = 5.0


@dataclass
class InFlight:
    """A request that a worker has not answered."""

    kind: Hashable  #: What the duration of its microbatches depends on.
    per_sign: (
        int  #: Microbatches between two signs of progress: all of them if it is remote, else 1.
    )
    sent: float
    current: int  #: The microbatch that the worker was last seen computing.
    waited: float = 0.0  #: Seconds without progress during which the driver itself was running.


@dataclass
class ReductionStep:
    """A step that is being reduced."""

    step_id: int
    task: Task
    buffer: int  #: Index of the buffer with the parameters.
    schedule: StepSchedule
    #: For each microbatch, how often each worker failed on it.
    failures: dict[int, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    #: When workers exited or froze while they computed one of these microbatches: a single one
    #: where the worker's progress is visible, else its whole assignment.
    lost_at: dict[range, list[float]] = field(default_factory=lambda: defaultdict(list))
    paused_until: float = 0.0  #: Nothing is assigned before this time of the monotonic clock.

    @property
    def failed_workers(self) -> set[int]:
        """Workers that failed in this step."""
        return {worker for counts in self.failures.values() for worker in counts}

    def record_failure(self, worker: int, failed: Failed) -> None:
        """Record that a worker raised; raise `MicrobatchFailed` if its microbatch did too often."""
        failures = self.failures[failed.microbatch]
        failures[worker] += 1
        if len(failures) < _MAX_FAILED_WORKERS and failures.total() < _MAX_FAILURES:
            return
        others = ", ".join(str(other) for other in failures if other != worker)
        times = f"it failed on it {failures[worker]} times"
        more = f"worker {others} failed on it too" if others else times
        microbatches = range(failed.microbatch, failed.microbatch + 1)
        raise self._error(worker, microbatches, f"{failed.cause} ({more})", failed.rows)

    def record_lost_worker(
        self, worker: int, suspects: range, rows: Sequence[int], sent: float
    ) -> None:
        """Record that a worker exited or froze in one of these microbatches; raise if too many did.

        Several workers may compute the same microbatches, and a machine that is lost takes all its
        workers with it. So a loss counts only if the microbatches were sent after the last one;
        `sent` is in seconds of the monotonic clock. `rows` are those of a single microbatch.
        """
        lost_at = self.lost_at[suspects]
        if lost_at and sent <= lost_at[-1]:
            return
        lost_at.append(time.monotonic())
        if len(lost_at) == _MAX_LOST_WORKERS - 1:
            self.paused_until = lost_at[-1] + _PAUSE_S
        if len(lost_at) >= _MAX_LOST_WORKERS:
            what = "it" if len(suspects) == 1 else "them"
            cause = f"{_MAX_LOST_WORKERS} workers exited or froze while they computed {what}"
            raise self._error(worker, suspects, cause, rows)

    def _error(
        self, worker: int, microbatches: range, cause: str, rows: Sequence[int]
    ) -> MicrobatchFailed:
        task = self.task
        return MicrobatchFailed(worker, microbatches, str(task), cause, task.source, rows)
