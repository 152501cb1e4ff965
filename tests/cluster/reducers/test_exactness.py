"""The same bits for any number of workers, and the mutations that would break this promise.

The workers are `GradientWorker`s in this process; tests/integration does the same with Ray.
"""

import random

import numpy as np
import pytest

from sumgrad.cluster.compute.worker import GradientWorker, Task
from sumgrad.cluster.planning.reduction import Node, PartialSum, TreeReduction
from sumgrad.cluster.planning.work_stealing import split_evenly
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.model.optimizers import GradientDescent
from sumgrad.model.validation import Array
from tests.cluster.small_job import SmallJob

FULL = Task("gradient", "full")
TASKS = [
    FULL,
    Task("gradient", "train", epoch=1, step=0),
    Task("gradient", "train", epoch=2, step=2),
    Task("evaluation", "validation"),
]


class ShuffledReducer(GradientReducer):
    """Several workers whose replies arrive in a random order."""

    def __init__(self, job: SmallJob, workers: int) -> None:
        self._job = job
        self._workers = [GradientWorker(i, job.workload) for i in range(workers)]
        self._shuffle = random.Random(workers).shuffle

    @property
    def num_threads(self) -> int:
        return len(self._workers)

    def replies(self, task: Task, flat: Array) -> list[list[Node]]:
        """Return the nodes that each worker sends."""
        count = self._job.workload.plan(task).num_microbatches
        shares = split_evenly(count, [1] * self.num_threads)
        replies = []
        for worker, own in zip(self._workers, shares, strict=True):
            worker.buffers.release_all()
            replies.append(worker.compute(task, own, flat))
        return replies

    def arrivals(self, task: Task, flat: Array) -> list[Node]:
        """Return all nodes in the order of arrival."""
        nodes = [node for reply in self.replies(task, flat) for node in reply]
        self._shuffle(nodes)
        return nodes

    def reduce(self, task: Task, flat: Array) -> PartialSum:
        plan = self._job.workload.plan(task)
        tree = TreeReduction(plan.num_microbatches)
        for node in self.arrivals(task, flat):
            tree.add(node)
        return tree.root(plan.num_rows)

    def close(self) -> None:
        pass


def inline_sum(job: SmallJob, task: Task = FULL) -> PartialSum:
    with InlineReducer(job.workload) as reducer:
        return reducer.reduce(task, job.W)


def gradient_of(total: PartialSum) -> Array:
    assert total.gradient is not None
    return total.gradient


def values(total: PartialSum) -> tuple[bytes | None, float, int, int]:
    gradient = None if total.gradient is None else total.gradient.tobytes()
    return gradient, total.divergence, total.correct, total.count


def train(job: SmallJob, reducer: GradientReducer, source: str) -> bytes:
    """Return the weights after two epochs of plain gradient descent."""
    W, plan = job.W, job.workload.plans[source]
    for epoch in (1, 2):
        for step in range(plan.steps_per_epoch):
            total = reducer.reduce(Task("gradient", source, epoch, step), W)
            W, _ = GradientDescent().update(W, gradient_of(total), total.count, {}, 0.3)
    return W.tobytes()


@pytest.mark.parametrize("task", TASKS, ids=str)
@pytest.mark.parametrize("workers", [1, 2, 3, 5, 7, 20])
def test_a_sum_has_the_same_bits_for_any_number_of_workers(
    small_job: SmallJob, workers: int, task: Task
) -> None:
    alone = inline_sum(small_job, task)
    assert values(ShuffledReducer(small_job, workers).reduce(task, small_job.W)) == values(alone)
    assert alone.count == small_job.workload.plan(task).num_rows


@pytest.mark.parametrize("source", ["full", "train"])
@pytest.mark.parametrize("workers", [2, 3, 5])
def test_trained_weights_have_the_same_bits(small_job: SmallJob, workers: int, source: str) -> None:
    alone = train(small_job, InlineReducer(small_job.workload), source)
    assert train(small_job, ShuffledReducer(small_job, workers), source) == alone


def test_mutation_a_sum_in_arrival_order_changes_the_bits(small_job: SmallJob) -> None:
    """The tests above would notice a reduction in the order of arrival."""
    seen = set()
    for workers in (1, 2, 3, 5):
        total = np.zeros_like(small_job.W)
        for node in ShuffledReducer(small_job, workers).arrivals(FULL, small_job.W):
            total = total + gradient_of(node.sum)
        seen.add(total.tobytes())
    assert len(seen) > 1


def test_mutation_one_merged_product_changes_the_bits(small_job: SmallJob) -> None:
    """A worker that computed all of its rows in one call would return another sum."""
    x, d = small_job.workload.sources["full"].read(slice(None))
    parameters = small_job.network.parameters(small_job.W)
    merged = small_job.network.gradient_sum(parameters, x, d).gradients.flat
    expected = gradient_of(inline_sum(small_job))
    np.testing.assert_allclose(merged, expected, rtol=1e-3, atol=1e-4)
    assert merged.tobytes() != expected.tobytes()


def test_mutation_a_mean_of_means_weighs_a_smaller_share_too_high(small_job: SmallJob) -> None:
    """The average of the workers' averages differs from the mean over the instances."""
    means = []
    for nodes in ShuffledReducer(small_job, 5).replies(FULL, small_job.W):
        total = np.sum([gradient_of(node.sum) for node in nodes], axis=0)
        means.append(total / sum(node.sum.count for node in nodes))
    expected = inline_sum(small_job)
    mean = gradient_of(expected) / expected.count
    assert not np.allclose(np.mean(means, axis=0), mean, rtol=1e-3)
