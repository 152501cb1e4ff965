"""A Ray cluster of several nodes: workers far away, sums added where they meet, the same bits."""

import os
import signal
from collections.abc import Iterator

import pytest
import ray
from ray.cluster_utils import Cluster

from cluster.convergence import StopRule
from cluster.driver import ParameterDriver, Recipe
from cluster.exchange import Exchange, InlineExchange
from cluster.ray_exchange import RayExchange, places
from cluster.ray_session import ray_session
from cluster.state import Outcome
from cluster.worker import Workload
from model.initializers import initial_parameters
from model.optimizers import Momentum
from tests.integration.test_ray_exchange import NETWORK, make_workload

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def nodes() -> Iterator[Cluster]:
    """A head and two more nodes of two CPUs each, on this machine."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
    )
    for _ in range(2):
        cluster.add_node(num_cpus=2)
    with ray_session(cluster.address, None) as cpus:
        assert cpus == 6
        yield cluster
    cluster.shutdown()  # type: ignore[no-untyped-call]


def train(workload: Workload, exchange: Exchange) -> Outcome:
    recipe = Recipe(NETWORK, Momentum(), 0.1, StopRule(3))
    driver = ParameterDriver(recipe, workload.plans["train"], exchange, validate=True)
    return driver.run(initial_parameters(NETWORK, seed=6).flat)


def test_workers_of_another_node_are_threads_of_one_process() -> None:
    found = places({0: "b", 1: "a", 2: "c", 3: "b", 4: "a"}, own="a")
    assert [(p.lanes, p.bundle, p.is_far) for p in found] == [
        (1, 1, False),
        (1, 4, False),
        (2, 0, True),
        (1, 2, True),
    ]


@pytest.mark.parametrize("workers", [2, 5, 6])
def test_several_nodes_give_the_bits_of_inline(nodes: Cluster, workers: int) -> None:
    workload = make_workload(90)
    alone = train(workload, InlineExchange(workload))
    with RayExchange(workload, workers) as exchange:
        outcome = train(workload, exchange)
        assert exchange.workers == workers
    assert outcome.failure is None
    assert outcome.W.tobytes() == alone.W.tobytes()


def test_a_killed_process_of_another_node_costs_no_bit(nodes: Cluster) -> None:
    workload = make_workload(90)
    alone = train(workload, InlineExchange(workload))
    with RayExchange(workload, 6) as exchange:
        before = exchange.pids
        killed = max(before)

        def kill(step: int) -> None:
            if exchange.pids == before:
                os.kill(before[killed], signal.SIGKILL)

        recipe = Recipe(NETWORK, Momentum(), 0.1, StopRule(3))
        driver = ParameterDriver(recipe, workload.plans["train"], exchange, on_step=kill)
        outcome = driver.run(initial_parameters(NETWORK, seed=6).flat)
        assert exchange.pids.get(killed) != before[killed]
    assert outcome.W.tobytes() == alone.W.tobytes()


def test_the_cpus_are_given_back(nodes: Cluster) -> None:
    for _ in range(3):
        with RayExchange(make_workload(90), 6):
            pass
    assert ray.cluster_resources().get("CPU") == 6  # type: ignore[no-untyped-call]
