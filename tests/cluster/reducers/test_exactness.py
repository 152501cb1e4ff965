"""The same bits for any number of workers: the promise, and the mutations that would break it.

Workers here are `GradientWorker`s in this process; tests/integration does the same with Ray.
"""

import random

import numpy as np
import pytest

from sumgrad.cluster.compute.worker import GradientWorker, Task
from sumgrad.cluster.planning.reduction import Node, PartialSum, TreeReduction
from sumgrad.cluster.planning.work_stealing import shares
from sumgrad.cluster.reducers.base import GradientReducer, InlineReducer
from sumgrad.model.optimizers import GradientDescent
from sumgrad.model.validation import Array
from tests.cluster.small_job import SmallJob

TASKS = [
    Task("gradient", "full"),
    Task("gradient", "train", epoch=1, step=0),
    Task("gradient", "train", epoch=2, step=2),
]


class SeveralWorkers(GradientReducer):
    """Some workers whose answers arrive in a random order."""

    def __init__(self, job: SmallJob, workers: int) -> None:
        self._job = job
        self._workers = [GradientWorker(i, job.workload) for i in range(workers)]
        self._shuffle = random.Random(workers).shuffle

    @property
    def workers(self) -> int:
        return len(self._workers)

    def answers(self, task: Task, flat: Array) -> list[Node]:
        """What the workers send, in the order of arrival."""
        shards = shares(self._job.workload.plan(task).num_microbatches, [1] * self.workers)
        nodes = [
            node
            for worker, own in zip(self._workers, shards, strict=True)
            for node in worker.compute(task, own, flat)
        ]
        self._shuffle(nodes)
        return nodes

    def reduce(self, task: Task, flat: Array) -> PartialSum:
        plan = self._job.workload.plan(task)
        tree = TreeReduction(plan.num_microbatches)
        for node in self.answers(task, flat):
            tree.add(node)
        return tree.root(plan.num_rows)

    def close(self) -> None:
        pass


def bits(total: PartialSum) -> tuple[bytes, float]:
    assert total.gradient is not None
    return total.gradient.tobytes(), total.divergence


def train(job: SmallJob, reducer: GradientReducer, source: str) -> bytes:
    """Two epochs of plain gradient descent."""
    W, plan = job.W, job.workload.plans[source]
    for epoch in (1, 2):
        for step in range(plan.steps_per_epoch):
            total = reducer.reduce(Task("gradient", source, epoch, step), W)
            assert total.gradient is not None
            W, _ = GradientDescent().update(W, total.gradient, total.count, {}, 0.3)
    return W.tobytes()


@pytest.mark.parametrize("task", TASKS, ids=str)
@pytest.mark.parametrize("workers", [1, 2, 3, 5, 7, 20])
def test_a_sum_has_the_same_bits_for_any_number_of_workers(
    small_job: SmallJob, workers: int, task: Task
) -> None:
    alone = InlineReducer(small_job.workload).reduce(task, small_job.W)
    spread = SeveralWorkers(small_job, workers).reduce(task, small_job.W)
    assert bits(spread) == bits(alone)
    assert spread.count == small_job.workload.plan(task).num_rows


@pytest.mark.parametrize("source", ["full", "train"])
@pytest.mark.parametrize("workers", [2, 3, 5])
def test_trained_weights_have_the_same_bits(small_job: SmallJob, workers: int, source: str) -> None:
    alone = train(small_job, InlineReducer(small_job.workload), source)
    assert train(small_job, SeveralWorkers(small_job, workers), source) == alone


def test_an_evaluation_has_the_same_figures(small_job: SmallJob) -> None:
    task = Task("evaluation", "validation")
    alone = InlineReducer(small_job.workload).reduce(task, small_job.W)
    spread = SeveralWorkers(small_job, 3).reduce(task, small_job.W)
    assert (spread.divergence, spread.correct, spread.count) == (
        alone.divergence,
        alone.correct,
        alone.count,
    )


def test_mutation_a_sum_in_arrival_order_changes_the_bits(small_job: SmallJob) -> None:
    """What most frameworks do; the tests above would notice it."""
    seen = set()
    for workers in (1, 2, 3, 5):
        arrived = SeveralWorkers(small_job, workers).answers(TASKS[0], small_job.W)
        total = np.zeros_like(small_job.W)
        for node in arrived:
            assert node.sum.gradient is not None
            total = total + node.sum.gradient
        seen.add(total.tobytes())
    assert len(seen) > 1


def test_mutation_one_merged_product_changes_the_bits(small_job: SmallJob) -> None:
    """A worker that computed all of its rows at once would give another sum."""
    source = small_job.workload.sources["full"]
    x, d = source.read(slice(0, source.rows))
    parameters = small_job.network.parameters(small_job.W)
    merged = small_job.network.gradient_sum(parameters, x, d).gradients.flat
    exact = InlineReducer(small_job.workload).reduce(TASKS[0], small_job.W)
    assert exact.gradient is not None
    np.testing.assert_allclose(merged, exact.gradient, rtol=1e-3, atol=1e-4)
    assert merged.tobytes() != exact.gradient.tobytes()


def test_mutation_a_mean_of_means_counts_ragged_rows_too_high(small_job: SmallJob) -> None:
    """Workers' averages, averaged: the instances of the smaller share weigh more."""
    task = TASKS[0]
    means = []
    for worker, shards in enumerate(
        shares(small_job.workload.plan(task).num_microbatches, [1] * 5)
    ):
        nodes = GradientWorker(worker, small_job.workload).compute(task, shards, small_job.W)
        gradients = [node.sum.gradient for node in nodes if node.sum.gradient is not None]
        means.append(np.sum(gradients, axis=0) / sum(node.sum.count for node in nodes))
    exact = InlineReducer(small_job.workload).reduce(task, small_job.W)
    assert exact.gradient is not None
    assert not np.allclose(np.mean(means, axis=0), exact.gradient / exact.count, rtol=1e-3)
