"""The seam between the driver and those who compute: parameters go out, one exact sum comes back.

An exchange decides how work is spread and how numbers travel; the plan and the tree decide the
result, so that every exchange gives the same bits.
"""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from cluster.tree import PartialSum, TreeSum
from cluster.worker import GradientWorker, Task, Workload
from model.checks import Array


class Exchange(ABC):
    """Sums a task over all of its instances, wherever they are computed.

    Attributes:
        workers: How many compute.
    """

    workers: int

    @abstractmethod
    def total(self, task: Task, flat: Array) -> PartialSum:
        """The sum over every instance of the task.

        Args:
            task: What to sum.
            flat: Parameters, (N,); not changed.

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
    """Everything in this process, without Ray.

    Args:
        workload: Network, rows and plans.
    """

    workers = 1

    def __init__(self, workload: Workload) -> None:
        self._worker = GradientWorker(0, workload)

    def total(self, task: Task, flat: Array) -> PartialSum:
        """See `Exchange.total`."""
        plan = self._worker.workload.plan(task)
        tree = TreeSum(plan.shards)
        for node in self._worker.compute(task, range(plan.shards), flat):
            tree.add(node)
        return tree.root(plan.rows)

    def close(self) -> None:
        """Nothing to let go of."""
