"""A Ray cluster of several nodes: remote workers, nodes that leave and join, the same bits."""

import logging
import os
import signal
from collections.abc import Callable, Iterator

import pytest
import ray
from ray.cluster_utils import Cluster

from sumgrad.cluster.ray_backend.reducer import RayReducer
from sumgrad.cluster.ray_backend.session import ray_session
from sumgrad.cluster.workers.scaling_policy import ScalingPolicy
from tests.cluster.polling import wait_for
from tests.cluster.ray_nodes import ray_cluster
from tests.cluster.small_job import SmallJob, assert_undisturbed, stop_when, train

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A head and two more nodes of two CPUs each, on this machine."""
    with ray_cluster(2, more_nodes=2) as cluster, ray_session(cluster.address, None) as cpus:
        assert cpus == 6
        yield cluster


def total_cpus() -> int:
    return int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]


def test_several_nodes_give_the_bits_of_inline_though_a_worker_is_killed(
    nodes: Cluster, small_job: SmallJob
) -> None:
    with RayReducer(small_job.workload, 5) as reducer:
        undisturbed = train(small_job, reducer, epochs=3)
        assert reducer.num_threads == 5
        before = reducer.pids
        killed = max(before)
        os.kill(before[killed], signal.SIGKILL)
        result = train(
            small_job,
            reducer,
            should_stop=stop_when(lambda: reducer.pids.get(killed) not in (None, before[killed])),
        )
    assert_undisturbed(small_job, undisturbed)
    assert_undisturbed(small_job, result)
    wait_for(lambda: ray.available_resources().get("CPU") == 6)  # type: ignore[no-untyped-call]


class Steps:
    """Actions, each taken once its condition holds."""

    def __init__(self, *steps: tuple[Callable[[], bool], Callable[[], object]]) -> None:
        self._left = list(steps)

    def are_done(self) -> bool:
        while self._left and self._left[0][0]():
            self._left.pop(0)[1]()
        return not self._left


def test_a_node_leaves_and_another_joins(nodes: Cluster, small_job: SmallJob) -> None:
    added = nodes.add_node(num_cpus=2)
    wait_for(lambda: total_cpus() == 8)
    with RayReducer(small_job.workload, 8, policy=ScalingPolicy(min_cpus=2)) as reducer:
        placement = reducer._group._placement
        processes = range(placement.initial_workers)
        steps = Steps(
            (lambda: reducer.num_threads == 8, lambda: nodes.remove_node(added)),
            # Its workers do not count as hanging while there are no CPUs for them.
            (
                lambda: reducer.num_threads == 6 and not all(map(placement.has_cpus, processes)),
                lambda: nodes.add_node(num_cpus=2),
            ),
            (lambda: reducer.num_threads == 8, lambda: None),
        )
        result = train(small_job, reducer, should_stop=stop_when(steps.are_done))
    assert_undisturbed(small_job, result)


def test_workers_join_when_the_cluster_grows(
    nodes: Cluster, small_job: SmallJob, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sumgrad")
    cpus = total_cpus()
    policy = ScalingPolicy(extra_cpus=1)
    with RayReducer(small_job.workload, cpus, policy=policy) as reducer:
        assert reducer.num_threads == cpus
        nodes.add_node(num_cpus=1)
        result = train(
            small_job, reducer, should_stop=stop_when(lambda: reducer.num_threads == cpus + 1)
        )
    # On a slow machine the wait for the first processes is logged too.
    [line] = [line for line in caplog.messages if not line.startswith("waiting for")]
    assert line.endswith(f" joined: {cpus + 1} workers now")
    assert_undisturbed(small_job, result)
