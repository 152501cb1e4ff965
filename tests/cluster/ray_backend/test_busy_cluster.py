"""A Ray cluster with too few CPUs: reported at once, started with fewer, or waited for."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import ray

from sumgrad.cluster.errors import ClusterError, ClusterUnreachable
from sumgrad.cluster.ray_backend.launcher import RayLauncher
from sumgrad.cluster.ray_backend.reducer import RayReducer
from sumgrad.cluster.ray_backend.session import _available_cpus, ray_session
from sumgrad.cluster.ray_backend.watchdog import DaemonWatch
from sumgrad.cluster.training.state import TrainingResult
from sumgrad.cluster.workers.scaling_policy import ScalingPolicy
from tests.cluster.polling import on_log, wait_for
from tests.cluster.ray_nodes import ray_cluster
from tests.cluster.small_job import SmallJob, assert_undisturbed, stop_when, train

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """A connection to a cluster of one node with four CPUs."""
    with ray_cluster(4) as cluster, ray_session(cluster.address, 4) as workers:
        assert workers == 4
        assert DaemonWatch.current is None
        yield


def wait_until_free(cpus: int) -> None:
    wait_for(lambda: ray.available_resources().get("CPU", 0) == cpus)  # type: ignore[no-untyped-call]


@pytest.fixture
def release() -> Iterator[Callable[[], None]]:
    """Another program has two of the CPUs, until the test releases them."""

    class Other:
        def is_running(self) -> bool:
            return True

    wait_until_free(4)
    other: Any = ray.remote(Other).options(num_cpus=2).remote()
    assert ray.get(other.is_running.remote())
    yield lambda: ray.kill(other)
    ray.kill(other)


def test_a_cluster_that_is_too_small_is_reported_at_once() -> None:
    with pytest.raises(
        ClusterUnreachable, match="the job needs 8 workers of one CPU each, the cluster has 4"
    ) as caught:
        _available_cpus(8, None, waits_for_nodes=False)
    assert caught.value.hint == "set cluster.workers to 4 or fewer, or add nodes"
    assert _available_cpus(8, None, waits_for_nodes=True) == 8


@pytest.mark.parametrize(("workers", "minimum", "given"), [(8, 2, 4), (None, None, 4), (3, 1, 3)])
def test_within_its_bounds_a_job_uses_all_cpus(
    workers: int | None, minimum: int | None, given: int
) -> None:
    assert _available_cpus(workers, minimum, waits_for_nodes=False) == given


def test_a_job_starts_with_the_free_cpus_and_grows(
    small_job: SmallJob, release: Callable[[], None], log: pytest.LogCaptureFixture
) -> None:
    with RayReducer(small_job.workload, 4) as reducer:
        assert reducer.num_threads == 2
        release()
        result = train(small_job, reducer, should_stop=stop_when(lambda: reducer.num_threads == 4))
    assert_undisturbed(small_job, result)
    # On a slow machine the wait for the first processes is logged too.
    first, *joined = [line for line in log.messages if not line.startswith("waiting for")]
    assert first == (
        "2 of 4 CPUs are free: starting with these; more workers join when CPUs become free"
    )
    assert {line.partition(":")[0] for line in joined} == {"worker 2 joined", "worker 3 joined"}
    assert joined[-1].endswith("4 workers now")
    wait_until_free(4)


def test_a_job_waits_for_its_minimum(
    small_job: SmallJob, release: Callable[[], None], log: pytest.LogCaptureFixture
) -> None:
    policy = ScalingPolicy(min_cpus=4, resource_timeout=60)
    with (
        on_log("waiting for", release),
        RayReducer(small_job.workload, 4, policy=policy) as reducer,
    ):
        assert reducer.num_threads == 4
    assert log.messages[0] == (
        "waiting for 4 free CPUs: the cluster has 4 in total, 2 free; up to 60 s"
    )


@pytest.mark.usefixtures("release")
@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (ScalingPolicy(3, resource_timeout=1), "did not have 3 free CPUs within 1 s"),
        (ScalingPolicy(3, should_stop=lambda: True), "stopped while waiting for 3 free CPUs"),
    ],
)
def test_a_wait_that_ends_leaves_no_reservation(
    small_job: SmallJob, policy: ScalingPolicy, message: str
) -> None:
    with pytest.raises(ClusterUnreachable, match=message):
        RayReducer(small_job.workload, 4, policy=policy)
    wait_until_free(2)


def test_rows_that_do_not_fit_leave_no_reservation(
    small_job: SmallJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ClusterError("the rows do not fit into Ray's object store")

    monkeypatch.setattr(RayLauncher, "_put", refuse)
    with pytest.raises(ClusterError, match="do not fit"):
        RayReducer(small_job.workload, 2)
    wait_until_free(4)


# --- several jobs


class Running:
    """A job that computes in the background until the test ends it."""

    def __init__(self, job: SmallJob, min_cpus: int) -> None:
        self._job = job
        self._policy = ScalingPolicy(min_cpus=min_cpus)
        self._is_to_end = threading.Event()
        self._reducer: RayReducer | None = None
        self._pool = ThreadPoolExecutor(1)
        self._result = self._pool.submit(self._run)

    def _run(self) -> TrainingResult:
        with RayReducer(self._job.workload, 4, policy=self._policy) as self._reducer:
            return train(self._job, self._reducer, should_stop=stop_when(self._is_to_end.is_set))

    def _has(self, workers: int) -> bool:
        if self._result.done():
            self._result.result()
        return self._reducer is not None and self._reducer.num_threads == workers

    def wait_for(self, workers: int) -> None:
        """Wait until it has this many workers."""
        wait_for(lambda: self._has(workers), 120)

    def end(self) -> None:
        """End it; its bits are those of a job that was never disturbed."""
        self._is_to_end.set()
        result = self._result.result(60)
        self._pool.shutdown()
        assert_undisturbed(self._job, result)


@pytest.fixture
def start(small_job: SmallJob) -> Iterator[Callable[..., Running]]:
    """Starts jobs on a cluster without others."""
    running: list[Running] = []

    def start(min_cpus: int = 1) -> Running:
        running.append(Running(small_job, min_cpus))
        return running[-1]

    wait_until_free(4)
    yield start
    for job in running:
        job.end()
    wait_until_free(4)


@pytest.mark.timeout(600)
def test_jobs_share_a_cluster_and_their_weights_are_bit_identical(
    start: Callable[..., Running], log: pytest.LogCaptureFixture
) -> None:
    first = start()
    first.wait_for(4)
    second = start()
    second.wait_for(2)
    first.wait_for(2)
    third = start()
    third.wait_for(1)
    # What does not divide goes to the first job.
    first.wait_for(2)
    second.wait_for(1)
    first.end()
    second.wait_for(2)
    third.wait_for(2)
    second.end()
    third.wait_for(4)
    assert any(line.startswith("released CPUs to other jobs") for line in log.messages)


def test_a_job_that_has_all_cpus_releases_a_later_job_s_minimum(
    start: Callable[..., Running],
) -> None:
    first = start()
    first.wait_for(4)
    second = start(min_cpus=3)
    second.wait_for(3)
    first.wait_for(1)
    second.end()
    first.wait_for(4)
