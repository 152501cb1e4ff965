"""A Ray cluster that has not what a job asks for: told at once, begun with less, or waited for."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from sumgrad.cluster.errors import ClusterError, ClusterUnreachable
from sumgrad.cluster.ray_backend import reducer as ray_exchange
from sumgrad.cluster.ray_backend.reducer import RayReducer
from sumgrad.cluster.ray_backend.session import is_local_instance, ray_session
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.cluster.training.driver import ParameterDriver, TrainingConfig
from sumgrad.cluster.training.state import TrainingResult
from sumgrad.cluster.training.stopping import StopReason, StopRule
from sumgrad.cluster.workers.scaling_policy import ScalingPolicy
from sumgrad.model.optimizers import Momentum
from tests.cluster.small_job import SmallJob

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of one node with four CPUs."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False}
    )
    yield cluster.address
    cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture
def release(address: str) -> Iterator[Callable[[], None]]:
    """We are connected, and two of the CPUs are somebody else's, who gives them back when told."""

    class Other:
        def is_there(self) -> bool:
            return True

    with ray_session(address, 4) as workers:
        assert workers == 4
        assert not is_local_instance()
        other: Any = ray.remote(Other).options(num_cpus=2).remote()
        assert ray.get(other.is_there.remote())
        yield lambda: ray.kill(other)


def free_cpus() -> float:
    resources: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return resources.get("CPU", 0)


def expect_free(cpus: int) -> None:
    """So many CPUs are nobody's, in a moment."""
    deadline = time.monotonic() + 10
    while free_cpus() != cpus:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def run(
    job: SmallJob, reducer: GradientReducer, should_stop: Callable[[], StopReason | None]
) -> TrainingResult:
    config = TrainingConfig(job.network, Momentum(), 0.1, StopRule(10**6))
    plan = job.workload.plans["train"]
    return ParameterDriver(config, plan, reducer, should_stop=should_stop).run(job.W)


def expect_undisturbed(job: SmallJob, outcome: TrainingResult) -> None:
    """The bits are those of as many steps in which nothing happened."""
    left = iter(range(outcome.steps))
    with InlineReducer(job.workload) as inline:
        alone = run(
            job, inline, lambda: StopReason.TERMINATED if next(left, None) is None else None
        )
    assert outcome.failure is None
    assert outcome.W.tobytes() == alone.W.tobytes()


def test_a_cluster_that_is_too_small_is_told_at_once(address: str) -> None:
    began = time.monotonic()
    with (
        pytest.raises(
            ClusterUnreachable,
            match="the job needs 8 workers of one CPU each, the cluster has 4",
        ) as caught,
        ray_session(address, 8),
    ):
        pass
    assert time.monotonic() - began < 20
    assert caught.value.hint == "set cluster.workers to 4 or fewer, or add nodes"


@pytest.mark.parametrize(("wanted", "least", "given"), [(8, 2, 4), (None, None, 4), (3, 1, 3)])
def test_within_bounds_it_takes_what_there_is(
    address: str, wanted: int | None, least: int | None, given: int
) -> None:
    with ray_session(address, wanted, least=least) as workers:
        assert workers == given


def test_a_busy_cluster_gives_what_is_free_and_more_when_there_is_more(
    small_job: SmallJob, release: Callable[[], None]
) -> None:
    notes: list[str] = []
    began = time.monotonic()
    rules = ScalingPolicy(least=1, note=notes.append)
    with RayReducer(small_job.workload, 4, rules=rules) as reducer:
        assert reducer.workers == 2
        assert time.monotonic() - began < 20
        deadline = time.monotonic() + 60

        def grows() -> StopReason | None:
            if reducer.workers == 2 and notes[-1].startswith("2 of 4"):
                notes.append("released")
                release()
            if time.monotonic() > deadline:
                return StopReason.INTERRUPTED
            return StopReason.TERMINATED if reducer.workers == 4 else None

        outcome = run(small_job, reducer, grows)
    assert outcome.reason is StopReason.TERMINATED, notes
    expect_undisturbed(small_job, outcome)
    assert notes[:2] == [
        "2 of 4 CPUs are free: begins with as many workers, and more join when there is room",
        "released",
    ]
    assert {note.partition(":")[0] for note in notes[2:]} == {"worker 2 joined", "worker 3 joined"}
    assert notes[-1].endswith("4 workers now")
    expect_free(4)


def test_for_the_least_it_waits_and_says_so(
    small_job: SmallJob, release: Callable[[], None]
) -> None:
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        release()

    rules = ScalingPolicy(least=4, wait_s=60, note=note)
    with RayReducer(small_job.workload, 4, rules=rules) as reducer:
        assert reducer.workers == 4
    [line] = notes
    assert line == (
        "waiting for 4 free CPUs: the cluster has 4 in all, 2 of them free; for 60 s at most"
    )


@pytest.mark.usefixtures("release")
def test_but_no_longer_than_it_may(small_job: SmallJob) -> None:
    rules = ScalingPolicy(least=3, wait_s=2)
    with pytest.raises(ClusterUnreachable, match="did not have 3 free CPUs within 2 s"):
        RayReducer(small_job.workload, 4, rules=rules)
    expect_free(2)


@pytest.mark.usefixtures("release")
def test_a_stop_is_met_while_it_waits_for_cpus(small_job: SmallJob) -> None:
    asked = time.monotonic() + 4
    rules = ScalingPolicy(least=3, is_stopping=lambda: time.monotonic() > asked)
    with pytest.raises(ClusterUnreachable, match="stopped while waiting for 3 free CPUs"):
        RayReducer(small_job.workload, 4, rules=rules)
    assert time.monotonic() - asked < 10
    expect_free(2)


@pytest.mark.usefixtures("release")
def test_what_was_reserved_is_given_back_where_the_rows_do_not_fit(
    small_job: SmallJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ClusterError("the rows do not fit into Ray's object store")

    monkeypatch.setattr(ray_exchange, "_put", refuse)
    with pytest.raises(ClusterError, match="do not fit"):
        RayReducer(small_job.workload, 2)
    expect_free(2)


# --- several jobs


class Running:
    """A job that computes beside the test until it is told to end."""

    def __init__(self, job: SmallJob, **rules: object) -> None:
        self.notes: list[str] = []
        self._job = job
        self._rules = replace(ScalingPolicy(note=self.notes.append), **rules)  # type: ignore[arg-type]
        self._is_to_end = threading.Event()
        self._exchange: RayReducer | None = None
        self._pool = ThreadPoolExecutor(1)
        self._outcome = self._pool.submit(self._run)

    def _run(self) -> TrainingResult:
        with RayReducer(self._job.workload, 4, rules=self._rules) as self._exchange:
            return run(self._job, self._exchange, self._reason)

    def _reason(self) -> StopReason | None:
        return StopReason.TERMINATED if self._is_to_end.is_set() else None

    def comes_to(self, workers: int) -> None:
        """Wait until it has so many."""
        deadline = time.monotonic() + 120
        while self._exchange is None or self._exchange.workers != workers:
            assert time.monotonic() < deadline, (workers, self.notes)
            if self._outcome.done():
                self._outcome.result()
            time.sleep(0.05)

    def end(self) -> None:
        """End it; its bits are those of a job that was never disturbed."""
        self._is_to_end.set()
        outcome = self._outcome.result(60)
        self._pool.shutdown()
        expect_undisturbed(self._job, outcome)


@pytest.fixture
def start(small_job: SmallJob, address: str) -> Iterator[Callable[..., Running]]:
    """Starts jobs on a cluster of which nobody else has anything."""
    running: list[Running] = []

    def start(**rules: object) -> Running:
        running.append(Running(small_job, **rules))
        return running[-1]

    with ray_session(address, 4):
        expect_free(4)
        yield start
        for job in running:
            job.end()
        expect_free(4)


@pytest.mark.timeout(600)
def test_jobs_share_a_cluster_and_each_has_the_bits_of_its_own(
    start: Callable[..., Running],
) -> None:
    first = start()
    first.comes_to(4)
    second = start()
    second.comes_to(2)
    first.comes_to(2)
    third = start()
    third.comes_to(1)
    # What does not divide is the first one's.
    first.comes_to(2)
    second.comes_to(1)
    first.end()
    second.comes_to(2)
    third.comes_to(2)
    second.end()
    third.comes_to(4)
    assert any(note.startswith("gives CPUs to other jobs") for note in first.notes)


def test_one_that_has_all_gives_a_later_one_what_it_needs(
    start: Callable[..., Running],
) -> None:
    first = start()
    first.comes_to(4)
    second = start(least=3)
    second.comes_to(3)
    first.comes_to(1)
    second.end()
    first.comes_to(4)
