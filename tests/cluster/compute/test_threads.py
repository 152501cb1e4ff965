"""Threads of one worker: same bits, used only for enough work, and errors that end the step."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from sumgrad.cluster.compute import threads
from sumgrad.cluster.compute.threads import ThreadedWorker
from sumgrad.cluster.compute.worker import GradientWorker, Task
from sumgrad.cluster.errors import MicrobatchFailed
from sumgrad.cluster.planning.reduction import Node
from sumgrad.model.validation import Array
from tests.cluster.small_job import SmallJob

TASK = Task("gradient", "full")


@pytest.fixture
def worker(small_job: SmallJob, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedWorker]:
    """Three threads that are used for any amount of work."""
    monkeypatch.setattr(threads, "MIN_WORK_FOR_THREADS", 0)
    worker = ThreadedWorker(5, small_job.workload, 3)
    yield worker
    worker.close()


def bits(nodes: list[Node]) -> set[tuple[int, int, bytes | None, float, int, int]]:
    return {
        (
            node.level,
            node.index,
            None if node.sum.gradient is None else node.sum.gradient.tobytes(),
            node.sum.divergence,
            node.sum.correct,
            node.sum.count,
        )
        for node in nodes
    }


@pytest.mark.parametrize("microbatches", [range(12), range(1, 8)])
@pytest.mark.parametrize("task", [TASK, Task("evaluation", "validation")], ids=str)
def test_threads_give_the_nodes_of_one_worker(
    worker: ThreadedWorker, small_job: SmallJob, task: Task, microbatches: range
) -> None:
    alone = GradientWorker(0, small_job.workload).compute(task, microbatches, small_job.W)
    for _ in range(3):
        assert bits(worker.compute(task, microbatches, small_job.W)) == bits(alone)
        worker.release_all()
    assert bits(worker.compute_sequentially(task, microbatches, small_job.W)) == bits(alone)


def test_a_second_thread_is_used_from_the_limit_on(
    small_job: SmallJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    compute = GradientWorker.compute

    def record(self: GradientWorker, task: Task, given: Iterable[int], flat: Array) -> list[Node]:
        used.append(id(self))
        return compute(self, task, given, flat)

    monkeypatch.setattr(GradientWorker, "compute", record)
    worker = ThreadedWorker(0, small_job.workload, 2)
    limit = 9 * small_job.network.layout.size
    for minimum, expected in ((limit + 1, 1), (limit, 2)):
        monkeypatch.setattr(threads, "MIN_WORK_FOR_THREADS", minimum)
        used.clear()
        worker.compute(TASK, range(2), small_job.W)
        assert len(set(used)) == expected
        worker.release_all()
    worker.close()


def test_buffers_are_numbered_in_the_order_of_their_allocation(small_job: SmallJob) -> None:
    allocated: list[int] = []

    def allocate(index: int) -> Array:
        allocated.append(index)
        return np.empty(small_job.network.layout.size, small_job.network.dtype)

    worker = ThreadedWorker(0, small_job.workload, 1, allocate)
    nodes = worker.compute(TASK, range(4), small_job.W)
    first = worker.buffer_index(nodes[0].sum.gradient)  # type: ignore[arg-type]
    assert allocated == [0, 1, 2]
    assert first == 0
    worker.release_all()
    worker.compute(TASK, range(4), small_job.W)
    assert allocated == [0, 1, 2], "later steps use the same buffers"
    worker.close()


@pytest.mark.parametrize("failing", [0, 11])
def test_an_error_in_any_thread_is_raised(
    worker: ThreadedWorker, small_job: SmallJob, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first microbatch is the calling thread's, the last one another thread's."""
    network = type(small_job.network)
    gradient_sum, row = network.gradient_sum, small_job.workload.plans["full"].step(1, 0)
    rows = row.row_indices(failing)
    bad = small_job.workload.sources["full"].read(slice(rows[0], rows[0] + 1))[0][0, 0]

    def fail(
        self: object, parameters: object, x: Array, *more: object, **options: object
    ) -> object:
        if x[0, 0] == bad:
            raise ArithmeticError("broken")
        return gradient_sum(self, parameters, x, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(network, "gradient_sum", fail)
    with pytest.raises(
        MicrobatchFailed, match=f"worker 5 failed on microbatch {failing} "
    ) as caught:
        worker.compute(TASK, range(12), small_job.W)
    assert list(caught.value.rows) == rows[:1]
    limits = [worker._claims.limit(thread) for thread in range(3)]
    assert limits == [0, 0, 0], "no thread starts another microbatch"
    monkeypatch.undo()
    worker.release_all()
    assert worker.compute(TASK, range(12), small_job.W)
