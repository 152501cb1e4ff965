"""Workers as Ray actors: the bits of `inline`, and what happens when one fails."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
from ray.exceptions import (
    ActorUnschedulableError,
    OutOfMemoryError,
    RayError,
    RuntimeEnvSetupError,
)

from sumgrad.cluster.compute import fingerprint
from sumgrad.cluster.compute.chunks import ChunkedVector
from sumgrad.cluster.errors import FingerprintMismatch, MicrobatchFailed
from sumgrad.cluster.planning import stragglers
from sumgrad.cluster.planning.reduction import Node, TreeReduction
from sumgrad.cluster.ray_backend.launcher import RayLauncher
from sumgrad.cluster.ray_backend.placement import RayPlacement
from sumgrad.cluster.ray_backend.reducer import RayReducer
from sumgrad.cluster.reducers import process
from sumgrad.cluster.transport.handshake import Address
from tests.cluster.polling import wait_for
from tests.cluster.small_job import (
    TASK,
    SmallJob,
    assert_undisturbed,
    expected_sum,
    stop_when,
    sum_bytes,
    train,
)
from tests.cluster.sources import DeadlySource, RaisingSource

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def reducer(ray_cpus: int, small_job: SmallJob) -> Iterator[RayReducer]:
    """Three workers that tests may kill, and that are replaced."""
    with RayReducer(small_job.workload, 3) as reducer:
        yield reducer


@pytest.mark.parametrize("workers", [1, 5])
def test_any_number_of_workers_gives_the_bits_of_inline(
    ray_cpus: int, small_job: SmallJob, workers: int
) -> None:
    with RayReducer(small_job.workload, workers) as reducer:
        result = train(small_job, reducer, epochs=3)
        assert sum_bytes(reducer, small_job) == expected_sum(small_job)
    assert_undisturbed(small_job, result)


def last_node_first(nodes: list[Node], leaves: int, chunks: ChunkedVector) -> TreeReduction:
    """The mutation that the test above must catch: sums added in another order than the tree's."""
    first, *others = sorted(nodes, key=lambda node: node.index << node.level, reverse=True)
    for node in others:
        assert first.sum.gradient is not None
        assert node.sum.gradient is not None
        first.sum.gradient += node.sum.gradient
        first.sum.divergence += node.sum.divergence
        first.sum.count += node.sum.count
    tree = TreeReduction(1)
    tree.add(Node(0, 0, first.sum))
    return tree


def test_mutation_a_sum_in_another_order_is_caught(
    reducer: RayReducer, small_job: SmallJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "reduce_nodes", last_node_first)
    mutated = reducer.reduce(TASK, small_job.W).gradient
    assert mutated is not None
    expected = np.frombuffer(expected_sum(small_job), mutated.dtype)
    np.testing.assert_allclose(mutated, expected, rtol=1e-3, atol=1e-4)
    assert mutated.tobytes() != expected.tobytes()


def test_a_killed_worker_is_replaced_and_the_weights_are_bit_identical(
    reducer: RayReducer, small_job: SmallJob
) -> None:
    before = reducer.pids
    os.kill(before[0], signal.SIGKILL)
    result = train(
        small_job,
        reducer,
        should_stop=stop_when(lambda: reducer.pids.get(0) not in (None, before[0])),
    )
    assert {w: reducer.pids[w] for w in (1, 2)} == {w: before[w] for w in (1, 2)}
    assert_undisturbed(small_job, result)


def test_a_frozen_worker_is_replaced_and_its_process_ended(
    reducer: RayReducer,
    small_job: SmallJob,
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stragglers, "_MIN_HANG_S", 1.0)
    train(small_job, reducer, epochs=2)
    before = reducer.pids
    os.kill(before[0], signal.SIGSTOP)
    result = train(
        small_job,
        reducer,
        should_stop=stop_when(lambda: reducer.pids.get(0) not in (None, before[0])),
    )
    wait_for(lambda: not psutil.pid_exists(before[0]))
    assert any("worker 0 has not answered for" in line for line in log.messages)
    assert_undisturbed(small_job, result)


def test_a_worker_whose_connection_fails_at_first_is_started_again(
    reducer: RayReducer,
    small_job: SmallJob,
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, starts = RayLauncher.start, list[int]()

    def fails_once(self: RayLauncher, worker: int, address: Address, secret: bytes) -> None:
        starts.append(worker)
        start(self, worker, address, b"another" if len(starts) == 1 else secret)

    monkeypatch.setattr(RayLauncher, "start", fails_once)
    before = reducer.pids
    os.kill(before[1], signal.SIGKILL)
    result = train(
        small_job,
        reducer,
        should_stop=stop_when(lambda: reducer.pids.get(1) not in (None, before[1])),
    )
    assert starts == [1, 1]
    assert any("worker 1 did not start (a connection was rejected" in x for x in log.messages)
    assert_undisturbed(small_job, result)


def test_a_microbatch_that_ends_three_workers_ends_the_run(
    ray_cpus: int, small_job: SmallJob, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    """Row 100 is in the last but one of twelve microbatches: the worker has summed others."""
    most = 50
    job = small_job.with_source(DeadlySource, 100, most, str(tmp_path))
    with RayReducer(job.workload, 2) as reducer:
        with pytest.raises(MicrobatchFailed, match="3 workers exited or froze") as caught:
            reducer.reduce(TASK, job.W)
        # Deaths of both workers at once count once, so that there are three to six.
        killed = {int(file.read_text()) for file in tmp_path.glob("[0-9]*")}
        assert 3 <= len(killed) <= 6
        for death in range(most):
            (tmp_path / str(death)).touch()
        assert sum_bytes(reducer, job) == expected_sum(small_job)
    assert caught.value.microbatch == 11
    replacements = [line for line in log.messages if line.endswith("starting a replacement")]
    assert len(replacements) == len(killed)


def test_a_worker_that_raises_is_reported_with_its_microbatch(
    ray_cpus: int, small_job: SmallJob
) -> None:
    job = small_job.with_source(RaisingSource, 61)
    with RayReducer(job.workload, 2) as reducer, pytest.raises(MicrobatchFailed) as caught:
        reducer.reduce(TASK, job.W)
    assert (caught.value.microbatch, list(caught.value.rows)) == (6, [61])
    assert "ValueError: this row is invalid" in str(caught.value)


def test_a_worker_with_another_arithmetic_is_refused(
    ray_cpus: int, small_job: SmallJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(fingerprint.compute_fingerprint(), blas="another BLAS")
    monkeypatch.setattr(fingerprint, "compute_fingerprint", lambda: other)
    with pytest.raises(FingerprintMismatch, match=r"worker \d's blas"):
        RayReducer(small_job.workload, 1)


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("the node ran out of memory"),  # type: ignore[no-untyped-call]  # Ray's
        RuntimeEnvSetupError("no environment"),
        ActorUnschedulableError("no node for it"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_ray_s_errors_are_reasons_for_a_worker_s_end(
    ray_cpus: int, small_job: SmallJob, monkeypatch: pytest.MonkeyPatch, error: RayError
) -> None:
    def refuse(_: object) -> None:
        raise error

    launcher = RayLauncher(small_job.workload, RayPlacement(1))
    launcher._serving[0] = ray.put(None)
    monkeypatch.setattr(ray, "get", refuse)
    reason = launcher.exit_reason(0)
    assert reason is not None
    assert reason.split()[-1] in str(error)
