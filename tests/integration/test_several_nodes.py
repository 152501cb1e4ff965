"""A Ray cluster of several nodes: workers far away, sums added where they meet, the same bits."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
import ray
from ray.cluster_utils import Cluster

from sumgrad.cluster.compute.worker import Workload
from sumgrad.cluster.ray_backend.placement import worker_slots
from sumgrad.cluster.ray_backend.reducer import RayReducer
from sumgrad.cluster.ray_backend.session import ray_session
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.cluster.training.driver import ParameterDriver, TrainingConfig
from sumgrad.cluster.training.state import TrainingResult
from sumgrad.cluster.training.stopping import StopReason, StopRule
from sumgrad.cluster.workers.scaling_policy import ScalingPolicy
from sumgrad.model.initializers import initial_parameters
from sumgrad.model.optimizers import Momentum
from tests.integration.test_ray_reducer import NETWORK, make_workload

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


def train(workload: Workload, reducer: GradientReducer) -> TrainingResult:
    config = TrainingConfig(NETWORK, Momentum(), 0.1, StopRule(3))
    driver = ParameterDriver(config, workload.plans["train"], reducer, validate=True)
    return driver.run(initial_parameters(NETWORK, seed=6).flat)


def test_workers_of_another_node_are_threads_of_one_process() -> None:
    found = worker_slots({0: "b", 1: "a", 2: "c", 3: "b", 4: "a"}, own="a")
    assert [(p.lanes, p.bundle, p.is_remote) for p in found] == [
        (1, 1, False),
        (1, 4, False),
        (2, 0, True),
        (1, 2, True),
    ]


@pytest.mark.parametrize("workers", [2, 5, 6])
def test_several_nodes_give_the_bits_of_inline(nodes: Cluster, workers: int) -> None:
    workload = make_workload(90)
    alone = train(workload, InlineReducer(workload))
    with RayReducer(workload, workers) as reducer:
        outcome = train(workload, reducer)
        assert reducer.workers == workers
    assert outcome.failure is None
    assert outcome.W.tobytes() == alone.W.tobytes()


def test_a_killed_process_of_another_node_costs_no_bit(nodes: Cluster) -> None:
    workload = make_workload(90)
    alone = train(workload, InlineReducer(workload))
    with RayReducer(workload, 6) as reducer:
        before = reducer.pids
        killed = max(before)

        def kill(step: int) -> None:
            if reducer.pids == before:
                os.kill(before[killed], signal.SIGKILL)

        config = TrainingConfig(NETWORK, Momentum(), 0.1, StopRule(3))
        driver = ParameterDriver(config, workload.plans["train"], reducer, on_step=kill)
        outcome = driver.run(initial_parameters(NETWORK, seed=6).flat)
        assert reducer.pids.get(killed) != before[killed]
    assert outcome.W.tobytes() == alone.W.tobytes()


def test_the_cpus_are_given_back(nodes: Cluster) -> None:
    for _ in range(3):
        with RayReducer(make_workload(90), 6):
            pass
    assert ray.cluster_resources().get("CPU") == 6  # type: ignore[no-untyped-call]


def stop_after(steps: int) -> Callable[[], StopReason | None]:
    """A reason to stop after so many steps."""
    left = iter(range(steps))
    return lambda: None if next(left, None) is not None else StopReason.TERMINATED


def run(
    workload: Workload, reducer: GradientReducer, should_stop: Callable[[], StopReason | None]
) -> TrainingResult:
    config = TrainingConfig(NETWORK, Momentum(), 0.1, StopRule(10**6))
    driver = ParameterDriver(config, workload.plans["train"], reducer, should_stop=should_stop)
    return driver.run(initial_parameters(NETWORK, seed=6).flat)


def expect_undisturbed(outcome: TrainingResult, workload: Workload) -> None:
    """The bits are those of a run in which nothing happened."""
    alone = run(workload, InlineReducer(workload), stop_after(outcome.steps))
    assert outcome.failure is None
    assert outcome.steps == alone.steps
    assert outcome.W.tobytes() == alone.W.tobytes()


def until(condition: Callable[[], bool], seconds: float) -> Callable[[], StopReason | None]:
    """A reason to stop once it holds; or, as a fault, if it does not in time."""
    deadline = time.monotonic() + seconds
    looked = 0.0

    def reason() -> StopReason | None:
        nonlocal looked
        now = time.monotonic()
        if now - looked < 0.05:
            return None
        looked = now
        if now > deadline:
            return StopReason.INTERRUPTED
        return StopReason.TERMINATED if condition() else None

    return reason


def test_a_node_that_goes_away_and_one_that_comes(nodes: Cluster) -> None:
    """Work goes on with fewer workers, and with more again once there is room."""
    workload, notes = make_workload(90), list[str]()
    added = nodes.add_node(num_cpus=2)
    while ray.cluster_resources().get("CPU") != 8:  # type: ignore[no-untyped-call]
        time.sleep(0.1)
    with RayReducer(workload, 8, rules=ScalingPolicy(least=2, note=notes.append)) as reducer:
        assert reducer.workers == 8
        steps: list[str] = []

        def events() -> bool:
            if not steps:
                steps.append("removed")
                nodes.remove_node(added)
            elif steps[-1] == "removed" and reducer.workers == 6:
                # Its workers are not taken for hanging as long as there is no room for them.
                pends = reducer._group._rules.pends
                if [worker for worker in range(reducer._group.max_workers) if pends(worker)]:
                    steps.append("pends")
            elif steps[-1] == "pends":
                steps.append("added")
                nodes.add_node(num_cpus=2)
            return steps[-1] == "added" and reducer.workers == 8

        outcome = run(workload, reducer, until(events, 60))
    assert outcome.reason is StopReason.TERMINATED, (steps, notes)
    expect_undisturbed(outcome, workload)


def test_workers_join_when_the_cluster_grows(nodes: Cluster) -> None:
    workload, notes = make_workload(90), list[str]()
    cpus = int(ray.cluster_resources()["CPU"])  # type: ignore[no-untyped-call]
    rules = ScalingPolicy(least=1, extra=1, note=notes.append)
    with RayReducer(workload, cpus, rules=rules) as reducer:
        assert reducer.workers == cpus
        added: list[object] = []

        def events() -> bool:
            if not added:
                added.append(nodes.add_node(num_cpus=1))
            return reducer.workers == cpus + 1

        outcome = run(workload, reducer, until(events, 60))
    assert outcome.reason is StopReason.TERMINATED, notes
    [note] = notes
    assert note.endswith(f" joined: {cpus + 1} workers now")
    expect_undisturbed(outcome, workload)
