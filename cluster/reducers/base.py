"""The seam between the driver and those who compute: parameters go out, one exact sum comes back.

An reducer decides how work is spread and how numbers travel; the plan and the tree decide the
result, so that every reducer gives the same bits.
"""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from sumgrad.cluster.compute.threads import ThreadedWorker
from sumgrad.cluster.compute.worker import Task, Workload
from sumgrad.cluster.planning.reduction import PartialSum, TreeReduction
from sumgrad.model.validation import Array


class GradientReducer(ABC):
    """Sums a task over all of its instances, wherever they are computed."""

    @property
    @abstractmethod
    def workers(self) -> int:
        """How many compute at a time."""

    def shared_copy(self, like: Array) -> Array:
        """A copy of parameters, (N,), at a place from where they reach the workers fastest."""
        return like.copy()

    def release(self, vector: Array) -> None:  # noqa: B027 - most have nothing to do for it
        """A vector of `vector` is needed no more, and may be given out again."""

    @abstractmethod
    def reduce(self, task: Task, flat: Array) -> PartialSum:
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


class InlineReducer(GradientReducer):
    """Everything in this process, without Ray: a thread for each worker.

    Args:
        workload: Network, rows and plans.
        workers: How many compute at a time.
    """

    def __init__(self, workload: Workload, workers: int = 1) -> None:
        self._workers = workers
        self._workload = workload
        self._lanes = ThreadedWorker(0, workload, workers)

    @property
    def workers(self) -> int:
        """See `GradientReducer.workers`."""
        return self._workers

    def reduce(self, task: Task, flat: Array) -> PartialSum:
        """See `GradientReducer.total`."""
        plan = self._workload.plan(task)
        self._lanes.release_all()
        tree = TreeReduction(plan.num_microbatches)
        for node in self._lanes.compute(task, range(plan.num_microbatches), flat):
            tree.add(node)
        return tree.root(plan.num_rows)

    def close(self) -> None:
        """End the threads."""
        self._lanes.close()
