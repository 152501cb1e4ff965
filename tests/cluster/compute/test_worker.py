"""The gradient worker: tasks, buffers, prefetched rows, and the row that it reports on an error."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from sumgrad.cluster.compute.worker import GradientBuffers, GradientWorker, Task
from sumgrad.cluster.errors import ClusterError, MicrobatchFailed
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import RowIndices
from sumgrad.model.validation import Array
from tests.cluster.small_job import SmallJob

TASK = Task("gradient", "full")


@dataclass(frozen=True)
class SpySource(ArraySource):
    """Rows that record how they are read.

    Args:
        on_read: Called with the indices of the rows before they are read.
    """

    on_read: Callable[[list[int]], None] = lambda _: None
    reads: list[list[int]] = field(default_factory=list)

    def read(self, rows: RowIndices, out: Array | None = None) -> tuple[Array, NDArray[np.generic]]:
        indices = np.arange(len(self.x))[rows].tolist()
        self.reads.append(indices)
        self.on_read(indices)
        return super().read(rows, out)


def spy_on(
    job: SmallJob, on_read: Callable[[list[int]], None] = lambda _: None
) -> tuple[SpySource, GradientWorker]:
    source = job.workload.sources["full"]
    assert isinstance(source, ArraySource)
    spy = SpySource(source.x, source.d, on_read)
    sources = dict.fromkeys(job.workload.sources, spy)
    return spy, GradientWorker(3, replace(job.workload, sources=sources))


def test_the_next_step_follows_in_the_epoch_or_starts_another() -> None:
    task = Task("gradient", "train", epoch=4, step=1)
    assert task.next_step(3) == Task("gradient", "train", epoch=4, step=2)
    assert task.next_step(2) == Task("gradient", "train", epoch=5, step=0)


def test_a_task_describes_itself_with_steps_from_one() -> None:
    assert str(Task("gradient", "train", 4, 1)) == (
        "summing gradients in epoch 4, step 2 of the epoch"
    )
    assert str(Task("evaluation", "test")) == "evaluating the test rows"


def test_an_evaluation_needs_a_plan_of_all_rows(small_job: SmallJob) -> None:
    with pytest.raises(ValueError, match="cannot evaluate 'train': its plan has a batch size"):
        small_job.workload.plan(Task("evaluation", "train"))


def test_sums_are_those_of_the_network(small_job: SmallJob) -> None:
    source, worker = spy_on(small_job)
    (node,) = worker.compute(TASK, [11], small_job.W)
    parameters = small_job.network.parameters(small_job.W)
    expected = small_job.network.gradient_sum(parameters, source.x[99:], source.d[99:])
    assert node.sum.gradient is not None
    np.testing.assert_allclose(node.sum.gradient, expected.gradients.flat, rtol=1e-5, atol=1e-6)
    assert (node.level, node.index, node.sum.count, node.sum.correct) == (2, 2, 8, 0) or (
        node.level,
        node.index,
        node.sum.count,
    ) == (0, 11, 8)
    (node,) = worker.compute(Task("evaluation", "validation"), [11], small_job.W)
    seen = small_job.network.evaluation_sum(parameters, source.x[99:], source.d[99:])
    assert (node.sum.gradient, node.sum.correct, node.sum.count) == (None, seen.correct, 8)
    assert node.sum.divergence == pytest.approx(seen.divergence)


def test_buffers_are_reused_the_last_released_first(small_job: SmallJob) -> None:
    buffers = GradientBuffers(small_job.network)
    a, b, c = (buffers.acquire() for _ in range(3))
    assert [buffers.index_of(each.flat) for each in (a, b, c)] == [0, 1, 2]
    assert (a.flat.dtype, a.flat.shape) == (small_job.W.dtype, small_job.W.shape)
    buffers.release(a.flat)
    buffers.release(c.flat)
    assert buffers.acquire() is c
    assert buffers.acquire() is a
    assert buffers.index_of(buffers.acquire().flat) == 3
    buffers.release_all()
    assert [buffers.index_of(buffers.acquire().flat) for _ in range(5)] == [0, 1, 2, 3, 4]


def test_merged_sums_release_a_buffer(small_job: SmallJob) -> None:
    allocated = []

    def allocate(index: int) -> Array:
        allocated.append(index)
        return np.empty(small_job.network.layout.size, small_job.network.dtype)

    GradientWorker(0, small_job.workload, allocate).compute(TASK, range(8), small_job.W)
    assert allocated == [0, 1, 2, 3], "one buffer per level of the tree"


@pytest.mark.parametrize("task", [TASK, Task("gradient", "train", 2, 1)], ids=str)
def test_prefetched_rows_are_not_read_again(small_job: SmallJob, task: Task) -> None:
    source, worker = spy_on(small_job)
    expected = worker.compute(task, [2], small_job.W)[0].sum
    before = (expected.gradient, expected.divergence)
    del source.reads[:]
    worker.prefetch(task, 2)
    assert len(source.reads) == 1
    after = worker.compute(task, [2], small_job.W)[0].sum
    assert len(source.reads) == 1
    assert after.divergence == before[1]
    assert after.gradient is not None
    assert before[0] is not None
    assert after.gradient.tobytes() == before[0].tobytes()
    worker.compute(task, [2], small_job.W)
    assert len(source.reads) == 2, "prefetched rows are used once"


def test_prefetched_rows_of_another_microbatch_or_step_are_dropped(small_job: SmallJob) -> None:
    source, worker = spy_on(small_job)
    plan = small_job.workload.plans["train"]
    for task, index in ((Task("gradient", "train", 1, 1), 1), (Task("gradient", "train", 1, 0), 2)):
        worker.prefetch(Task("gradient", "train", 1, 0), 1)
        worker.compute(task, [index], small_job.W)
        assert source.reads[-1] == plan.step(task.epoch, task.step).row_indices(index)


def test_prefetching_ignores_errors_and_missing_microbatches(small_job: SmallJob) -> None:
    def fail(_: list[int]) -> None:
        raise OSError("disk gone")

    source, worker = spy_on(small_job, fail)
    worker.prefetch(TASK, 12)
    assert source.reads == []
    worker.prefetch(TASK, 11)
    assert len(source.reads) == 1
    with pytest.raises(MicrobatchFailed, match="OSError: disk gone"):
        worker.compute(TASK, [11], small_job.W)


def test_an_error_names_worker_microbatch_task_and_row(small_job: SmallJob) -> None:
    def fail(rows: list[int]) -> None:
        if 14 in rows:
            raise ValueError("bad row")

    source, worker = spy_on(small_job, fail)
    with pytest.raises(MicrobatchFailed) as caught:
        worker.compute(TASK, range(3), small_job.W)
    error = caught.value
    assert str(error) == (
        "worker 3 failed on microbatch 1 while summing gradients in epoch 1, step 1 of the epoch: "
        "ValueError: bad row"
    )
    assert (error.microbatch, error.source, error.rows) == (1, "full", [14])
    assert source.reads[2:] == [[row] for row in range(9, 15)], "the search ends at the row"


@pytest.mark.parametrize("step_s", [0.0, 10.0])
def test_the_search_for_a_failing_row_has_a_time_limit(
    small_job: SmallJob, step_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows fail together only, so any of them may be the cause."""
    clock = [0.0]
    monkeypatch.setattr("sumgrad.cluster.compute.worker.time.monotonic", lambda: clock[0])

    def fail(rows: list[int]) -> None:
        clock[0] += step_s
        if len(rows) > 1:
            raise ValueError("too many at once")

    source, worker = spy_on(small_job, fail)
    with pytest.raises(MicrobatchFailed, match="too many at once") as caught:
        worker.compute(TASK, range(1, 2), small_job.W)
    assert caught.value.rows == list(range(9, 18))
    assert len(source.reads) == (2 if step_s else 10)
    worker.buffers.acquire()
    assert len(worker.buffers._buffers) == 1, "the search releases its buffer"


def test_no_row_is_reported_when_there_is_no_memory_for_a_sum(small_job: SmallJob) -> None:
    def allocate(_: int) -> Array:
        raise ClusterError("cannot allocate 4,000 bytes of shared memory")

    with pytest.raises(MicrobatchFailed, match="cannot allocate 4,000 bytes") as caught:
        GradientWorker(0, small_job.workload, allocate).compute(TASK, range(1), small_job.W)
    assert caught.value.rows == []
