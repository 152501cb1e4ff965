"""The seam between the driver and those who compute: parameters go out, one exact sum comes back.

An exchange decides how work is spread and how numbers travel; the plan and the tree decide the
result, so that every exchange gives the same bits.
"""

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from types import TracebackType
from typing import Self

from cluster.blocks import Blocks
from cluster.schedule import Claims, StepSchedule
from cluster.tree import PartialSum, combine
from cluster.worker import GradientWorker, Task, Workload
from model.checks import Array

#: Rows of a micro-shard times parameters: less than this is computed before a second thread has
#: woken up and the two have handed the interpreter's lock to each other some dozens of times.
#: Measured: at 3 million one thread was faster, at 9 million two were.
WORTH_A_THREAD = 5_000_000


class Exchange(ABC):
    """Sums a task over all of its instances, wherever they are computed.

    Attributes:
        workers: How many compute.
    """

    workers: int

    def vector(self, like: Array) -> Array:
        """A copy of parameters, (N,), at a place from where they reach the workers fastest."""
        return like.copy()

    @abstractmethod
    def total(self, task: Task, flat: Array) -> PartialSum:
        """The sum over every instance of the task.

        Args:
            task: What to sum.
            flat: Parameters, (N,), best one of `vector`; not changed.

        Returns:
            The sum; its gradient may be overwritten by the next call.

        Raises:
            ClusterError: A worker was lost or failed.
            CountMismatch: Not every instance was counted exactly once.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of workers and of what they hold."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class InlineExchange(Exchange):
    """Everything in this process, without Ray: a thread for each worker.

    NumPy lets go of the interpreter's lock while it computes.

    Args:
        workload: Network, rows and plans.
        workers: How many compute at a time.
    """

    def __init__(self, workload: Workload, workers: int = 1) -> None:
        self.workers = workers
        self._workload = workload
        self._parameters = workload.network.layout.size
        self._workers = [GradientWorker(index, workload) for index in range(workers)]
        self._claims = Claims.of(workers)
        self._blocks = Blocks(workload.network.layout.size, workers)
        # The calling thread is one of the workers' threads.
        self._threads = ThreadPoolExecutor(workers - 1) if workers > 1 else None

    def total(self, task: Task, flat: Array) -> PartialSum:
        """See `Exchange.total`."""
        plan = self._workload.plan(task)
        for worker in self._workers:
            worker.vectors.give_back_all()
        schedule = StepSchedule(range(plan.shards), self._claims)
        lock = Lock()

        def work(index: int, shards: range | None) -> None:
            while shards is not None:
                claimed = self._claims.claimed(index, shards)
                nodes = self._workers[index].compute(task, claimed, flat)
                with lock:
                    schedule.deliver(index, nodes)
                    shards = schedule.next_for(index)

        is_worth_it = plan.shard_rows * self._parameters >= WORTH_A_THREAD
        workers = range(self.workers if is_worth_it else 1)
        (first, *others) = schedule.start(workers).items()
        assert self._threads is not None or not others  # noqa: S101 - no thread, no others
        started = [self._threads.submit(work, *other) for other in others if self._threads]
        try:
            work(*first)
        except BaseException:
            self._claims.stop()
            raise
        finally:
            failures = [thread.exception() for thread in started]
        for failure in failures:
            if failure is not None:
                raise failure
        return combine(schedule.nodes(), plan.shards, self._blocks).root(plan.rows)

    def close(self) -> None:
        """End the threads."""
        self._blocks.close()
        if self._threads is not None:
            self._threads.shutdown()
