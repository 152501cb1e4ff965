"""The inline reducer: threads of this process, without Ray."""

from sumgrad.cluster.compute.threads import ThreadedWorker
from sumgrad.cluster.compute.worker import Task, Workload
from sumgrad.cluster.planning.reduction import PartialSum, TreeReduction
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.model.validation import Array


class InlineReducer(GradientReducer):
    """A reducer that computes everything in this process."""

    def __init__(self, workload: Workload, num_threads: int = 1) -> None:
        self._workload = workload
        self._num_threads = num_threads
        self._worker = ThreadedWorker(0, workload, num_threads)

    @property
    def num_threads(self) -> int:
        return self._num_threads

    def reduce(self, task: Task, flat: Array) -> PartialSum:
        plan = self._workload.plan(task)
        self._worker.release_all()
        tree = TreeReduction(plan.num_microbatches)
        for node in self._worker.compute(task, range(plan.num_microbatches), flat):
            tree.add(node)
        return tree.root(plan.num_rows)

    def close(self) -> None:
        self._worker.close()
