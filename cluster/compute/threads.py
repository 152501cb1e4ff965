"""Several gradient workers in one process, a thread each.

NumPy lets go of the interpreter's lock while it computes. What the threads summed is added before
it leaves the process.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from sumgrad.cluster.compute.chunks import ChunkedVector
from sumgrad.cluster.compute.fingerprint import Fingerprint
from sumgrad.cluster.compute.worker import GradientWorker, Task, Workload
from sumgrad.cluster.planning.plan import StepPlan
from sumgrad.cluster.planning.reduction import Node, reduce_nodes
from sumgrad.cluster.planning.work_stealing import ClaimTable, StepSchedule
from sumgrad.model.validation import Array

#: Rows of a microbatch times parameters: less than this is computed before a second thread has
#: woken up and the two have handed the interpreter's lock to each other some dozens of times.
#: Measured: at 3 million one thread was faster, at 9 million two were.
MIN_WORK_FOR_THREADS = 5_000_000


class ThreadedWorker:
    """Computes shares of a step's microbatches on some threads.

    Args:
        index: The number of the worker that they are together, for messages.
        workload: Network, rows and plans.
        lanes: How many threads.
        make_vector: See `sumgrad.cluster.compute.worker.Vectors`; of each lane.
    """

    def __init__(
        self,
        index: int,
        workload: Workload,
        lanes: int = 1,
        make_vector: Callable[[int], Array] | None = None,
    ) -> None:
        self.index = index
        self.workload = workload
        self._workers = [GradientWorker(index, workload, make_vector) for _ in range(lanes)]
        self._claims = ClaimTable.of(lanes)
        self._blocks = ChunkedVector(workload.network.layout.size, lanes)
        # The calling thread is one of them.
        self._threads = ThreadPoolExecutor(lanes - 1) if lanes > 1 else None

    def fingerprint(self) -> Fingerprint:
        """This process's arithmetic."""
        return self._workers[0].fingerprint()

    def buffer_index(self, flat: Array) -> int:
        """The number of a vector of the only lane."""
        (worker,) = self._workers
        return worker.vectors.number(flat)

    def release_all(self) -> None:
        """The sums of the last step are needed no more."""
        for worker in self._workers:
            worker.vectors.release_all()

    def compute(self, task: Task, shards: range, flat: Array) -> list[Node]:
        """See `GradientWorker.compute`."""
        plan = self.workload.plan(task)
        if self._threads is None or not self._is_worth_it(plan):
            return self.compute_sequentially(task, shards, flat)
        nodes = self._compute_together(task, shards, flat, self._threads)
        return reduce_nodes(nodes, plan.num_microbatches, self._blocks).nodes()

    def compute_sequentially(self, task: Task, shards: Iterable[int], flat: Array) -> list[Node]:
        """See `GradientWorker.compute`; on the calling thread, one after the other as they come."""
        return self._workers[0].compute(task, shards, flat)

    def _is_worth_it(self, plan: StepPlan) -> bool:
        return plan.microbatch_size * self.workload.network.layout.size >= MIN_WORK_FOR_THREADS

    def _compute_together(
        self, task: Task, shards: range, flat: Array, threads: ThreadPoolExecutor
    ) -> list[Node]:
        schedule = StepSchedule(shards, self._claims)
        lock = Lock()

        def work(lane: int, own: range | None) -> None:
            while own is not None:
                nodes = self._workers[lane].compute(
                    task, self._claims.iter_claimed(lane, own), flat
                )
                with lock:
                    schedule.deliver(lane, nodes)
                    own = schedule.next_assignment(lane)

        first, *others = schedule.start(dict.fromkeys(range(len(self._workers)), 1)).items()
        started = [threads.submit(work, *other) for other in others]
        try:
            work(*first)
        except BaseException:
            self._claims.cancel_all()
            raise
        finally:
            failures = [thread.exception() for thread in started]
        for failure in failures:
            if failure is not None:
                raise failure
        return schedule.nodes()

    def prefetch(self, task: Task, shard: int) -> None:
        """See `GradientWorker.prefetch`."""
        self._workers[0].prefetch(task, shard)

    def close(self) -> None:
        """End the threads."""
        self._blocks.close()
        if self._threads is not None:
            self._threads.shutdown()
