"""Several gradient workers in one process, one thread each.

NumPy releases the interpreter's lock while it computes. The threads' sums are reduced before they
leave the process.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from sumgrad.cluster.compute.chunks import ChunkedVector
from sumgrad.cluster.compute.worker import GradientWorker, Task, Workload
from sumgrad.cluster.planning.reduction import Node, reduce_nodes
from sumgrad.cluster.planning.work_stealing import ClaimTable, StepSchedule
from sumgrad.model.validation import Array

#: Microbatch rows times parameters below which a second thread costs more than it saves, because it
#: has to be woken and to share the interpreter's lock. Measured: 3 million are too few, 9 are not.
MIN_WORK_FOR_THREADS = 5_000_000


class ThreadedWorker:
    """A `GradientWorker` on several threads, the calling one included."""

    def __init__(
        self,
        index: int,
        workload: Workload,
        num_threads: int = 1,
        allocate: Callable[[int], Array] | None = None,
    ) -> None:
        self.index = index
        self.workload = workload
        self._workers = [GradientWorker(index, workload, allocate) for _ in range(num_threads)]
        self._claims = ClaimTable.local(num_threads)
        self._chunks = ChunkedVector(workload.network.layout.size, num_threads)
        self._pool = ThreadPoolExecutor(num_threads - 1) if num_threads > 1 else None

    def buffer_index(self, gradient: Array) -> int:
        """Return the index of a gradient buffer; only for one thread."""
        (worker,) = self._workers
        return worker.buffers.index_of(gradient)

    def release_all(self) -> None:
        """Release the buffers of the last step's sums."""
        for worker in self._workers:
            worker.buffers.release_all()

    def compute(self, task: Task, microbatches: range, flat: Array) -> list[Node]:
        """Return the maximal nodes over these microbatches; use threads where that is faster."""
        plan = self.workload.plan(task)
        work = plan.microbatch_size * self.workload.network.layout.size
        if self._pool is None or work < MIN_WORK_FOR_THREADS:
            return self.compute_sequentially(task, microbatches, flat)
        nodes = self._compute_in_threads(task, microbatches, flat, self._pool)
        return reduce_nodes(nodes, plan.num_microbatches, self._chunks.add_pairs).nodes()

    def compute_sequentially(
        self, task: Task, microbatches: Iterable[int], flat: Array
    ) -> list[Node]:
        """Return the maximal nodes over microbatches, computed in this thread, in this order."""
        return self._workers[0].compute(task, microbatches, flat)

    def _compute_in_threads(
        self, task: Task, microbatches: range, flat: Array, pool: ThreadPoolExecutor
    ) -> list[Node]:
        schedule = StepSchedule(microbatches, self._claims)
        lock = Lock()

        def work(thread: int, own: range | None) -> None:
            try:
                while own is not None:
                    claimed = self._claims.iter_claimed(thread, own)
                    nodes = self._workers[thread].compute(task, claimed, flat)
                    with lock:
                        schedule.deliver(thread, nodes)
                        own = schedule.next_assignment(thread)
            except BaseException:
                with lock:
                    self._claims.cancel_all()
                raise

        first, *others = schedule.start(dict.fromkeys(range(len(self._workers)), 1)).items()
        futures = [pool.submit(work, *other) for other in others]
        try:
            work(*first)
        finally:
            failures = [future.exception() for future in futures]
        for failure in filter(None, failures):
            raise failure
        return schedule.nodes()

    def prefetch(self, task: Task, microbatch: int) -> None:
        """Read the rows of a microbatch that is likely to be next."""
        self._workers[0].prefetch(task, microbatch)

    def close(self) -> None:
        """End the threads."""
        self._chunks.close()
        if self._pool is not None:
            self._pool.shutdown()
