"""Worker processes give the bits of `inline` and leave nothing behind."""

import os
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest

from sumgrad.cluster.errors import ClusterUnreachable
from sumgrad.cluster.planning import stragglers
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.cluster.reducers.process import ProcessReducer
from sumgrad.cluster.training.driver import ParameterDriver, TrainingConfig
from sumgrad.cluster.training.state import TrainingResult
from sumgrad.cluster.training.stopping import StopReason, StopRule
from sumgrad.cluster.workers.launcher import Placement
from sumgrad.model.optimizers import Momentum
from tests.cluster.polling import record_timeouts, wait_for
from tests.cluster.processes import SPAWN, ProcessLauncher, ThreadLauncher
from tests.cluster.small_job import (
    TASK,
    SmallJob,
    expected_sum,
    stop_after,
    sum_bytes,
    train,
)
from tests.cluster.sources import BlockingSource, read_lines
from tests.cluster.transport.descriptors import open_descriptors


@pytest.fixture(scope="module")
def inline(small_job: SmallJob) -> TrainingResult:
    with InlineReducer(small_job.workload) as reducer:
        return train(small_job, reducer, epochs=3)


def make_reducer(job: SmallJob, workers: int) -> ProcessReducer:
    return ProcessReducer(job.workload, Placement(workers), ProcessLauncher(job.workload))


def make_thread_reducer(job: SmallJob, workers: int) -> ProcessReducer:
    """For tests in which no process has to end."""
    return ProcessReducer(job.workload, Placement(workers), ThreadLauncher(job.workload))


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_processes_give_the_bits_of_inline(
    small_job: SmallJob, inline: TrainingResult, workers: int
) -> None:
    with make_reducer(small_job, workers) as reducer:
        result = train(small_job, reducer, epochs=3)
    assert result.W.tobytes() == inline.W.tobytes()
    assert result.report is not None
    assert inline.report is not None
    assert result.report.train_loss == inline.report.train_loss
    assert result.report.validation == inline.report.validation
    assert result.instances == inline.instances


@pytest.mark.parametrize(
    ("workers", "remote", "threads"),
    [(1, {0}, 1), (2, {0, 1}, 1), (5, {0, 2, 4}, 1), (3, {0, 2}, 3)],
    ids=str,
)
def test_workers_on_other_machines_give_the_bits_of_inline(
    small_job: SmallJob, inline: TrainingResult, workers: int, remote: set[int], threads: int
) -> None:
    launcher = ProcessLauncher(small_job.workload, remote=frozenset(remote), threads=threads)
    placement = Placement(workers, host="127.0.0.1")
    with ProcessReducer(small_job.workload, placement, launcher) as reducer:
        assert reducer.num_threads == workers + len(remote) * (threads - 1)
        before = reducer.pids
        result = train(small_job, reducer, epochs=3)
        assert reducer.pids == before
    assert result.W.tobytes() == inline.W.tobytes()


def test_the_usual_times_of_workers_on_other_machines_are_measured_apart(
    small_job: SmallJob,
) -> None:
    launcher = ProcessLauncher(small_job.workload, remote=frozenset({1}), threads=2)
    placement = Placement(2, host="127.0.0.1")
    with ProcessReducer(small_job.workload, placement, launcher) as reducer:
        reducer._stragglers.record(("gradient", "full", False, 2), 1e6, 1)
        sum_bytes(reducer, small_job)
        limits = [
            reducer._stragglers.speculate_after(("gradient", "full", *kind), 1)
            for kind in ((True, 1), (False, 2))
        ]
    assert limits[0] < 1e3 < limits[1]


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_threads_give_the_bits_of_one(
    small_job: SmallJob, inline: TrainingResult, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sumgrad.cluster.compute.threads.MIN_WORK_FOR_THREADS", 0)
    with InlineReducer(small_job.workload, workers) as reducer:
        assert train(small_job, reducer, epochs=3).W.tobytes() == inline.W.tobytes()


# --- slow workers


@pytest.fixture
def never_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine's speed, no worker is late, and none is taken for hung."""
    monkeypatch.setattr(stragglers, "_LATE_MARGIN_S", 1e9)
    monkeypatch.setattr(stragglers, "_MIN_HANG_S", 1e9)


@pytest.mark.usefixtures("never_late")
def test_others_steal_from_a_slow_worker_and_the_sum_is_bit_identical(
    small_job: SmallJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It continues once the other has read all eleven microbatches that it has not started."""
    job = small_job.with_source(BlockingSource, str(tmp_path), 11)
    assert job.workload.plan(TASK).num_microbatches == 12
    with make_reducer(job, 2) as reducer:
        timeouts = record_timeouts(reducer, monkeypatch)
        assert sum_bytes(reducer, job) == expected_sum(small_job)
    slow = (tmp_path / "blocked").read_text()
    # Half of the microbatches were its own.
    assert len(set(read_lines(tmp_path / f"reads-{slow}"))) == 1
    # The driver sleeps until there is a message or a second has passed.
    assert len(timeouts) < 50


def test_a_slow_worker_on_another_machine_is_not_waited_for(
    small_job: SmallJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stragglers, "_MIN_HANG_S", 1e9)
    blocked = tmp_path / "blocked"
    blocked.write_text("none")
    job = small_job.with_source(BlockingSource, str(tmp_path), 10**9)
    launcher = ProcessLauncher(job.workload, remote=frozenset({1}))
    with ProcessReducer(job.workload, Placement(2, host="127.0.0.1"), launcher) as reducer:
        before, expected = reducer.pids, expected_sum(small_job)
        # A worker is late when the usual time is known.
        sum_bytes(reducer, job)
        blocked.write_text(str(before[1]))
        for _ in range(3):
            assert sum_bytes(reducer, job) == expected
        # The other worker has computed its six microbatches, and it still has them.
        assert reducer.pids == before
        assert 1 in reducer._in_flight


def test_waiting_workers_use_no_processor(small_job: SmallJob) -> None:
    with make_reducer(small_job, 2) as reducer:
        # After quick steps they poll for half a millisecond before they block.
        train(small_job, reducer, epochs=3)
        workers = [psutil.Process(pid) for pid in reducer.pids.values()]
        wait_for(lambda: all(worker.status() == psutil.STATUS_SLEEPING for worker in workers))
        before = [sum(worker.cpu_times()[:2]) for worker in workers]
        # The time in which they would use the processor, if they did.
        time.sleep(0.5)
        after = [sum(worker.cpu_times()[:2]) for worker in workers]
    assert max(now - then for then, now in zip(before, after, strict=True)) < 0.05


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux has such policies")
def test_a_process_started_while_others_compute_is_no_batch_task(small_job: SmallJob) -> None:
    launcher = ProcessLauncher(small_job.workload, context=SPAWN)
    with ProcessReducer(small_job.workload, Placement(2), launcher) as reducer:
        before = reducer.pids
        os.kill(before[1], signal.SIGKILL)
        wait_for(
            lambda: sum_bytes(reducer, small_job) and reducer.pids.get(1) not in (None, before[1])
        )
        assert os.sched_getscheduler(reducer.pids[1]) == os.SCHED_OTHER
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


# --- resources


def test_nothing_is_left_behind(small_job: SmallJob) -> None:
    make_reducer(small_job, 1).close()
    # Objects of earlier tests may still wait for the collector.
    descriptors = open_descriptors()
    with make_reducer(small_job, 2) as reducer:
        reducer.reduce(TASK, small_job.W)
        pids = list(reducer.pids.values())
        address = reducer._group._server.address
    wait_for(lambda: not any(map(psutil.pid_exists, pids)))
    with pytest.raises(ConnectionRefusedError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(address.local))
    del reducer
    assert open_descriptors() <= descriptors


def test_workers_end_when_the_driver_disconnects(small_job: SmallJob) -> None:
    with make_reducer(small_job, 2) as reducer:
        pids = list(reducer.pids.values())
        for worker in list(reducer.pids):
            reducer._group._server.disconnect(worker)
        wait_for(lambda: not any(map(psutil.pid_exists, pids)))


def test_closing_twice_is_the_same_as_closing_once(small_job: SmallJob) -> None:
    launcher = ProcessLauncher(small_job.workload)
    reducer = ProcessReducer(small_job.workload, Placement(1), launcher)
    reducer.close()
    reducer.close()
    assert launcher.is_closed == 1


@pytest.mark.parametrize(
    "call",
    [
        "transport.shared_memory.create",
        "transport.server.Listener",
        "workers.worker_group.WorkerGroup.start",
    ],
)
def test_a_reducer_that_cannot_be_made_leaves_nothing(
    small_job: SmallJob, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(24, "Too many open files")

    descriptors = open_descriptors()
    launcher = ProcessLauncher(small_job.workload)
    monkeypatch.setattr(f"sumgrad.cluster.{call}", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        ProcessReducer(small_job.workload, Placement(1), launcher)
    assert launcher.is_closed == 1
    assert open_descriptors() <= descriptors


def test_vectors_are_reused(small_job: SmallJob) -> None:
    with make_thread_reducer(small_job, 2) as reducer:
        first = train(small_job, reducer, epochs=3)
        reducer.reduce(TASK, small_job.W)
        second = train(small_job, reducer, epochs=3)
        reducer.reduce(TASK, small_job.W)
        assert sorted(reducer._buffers._free) == [0, 1, 2, 3]
    assert second.W.tobytes() == first.W.tobytes()


def test_a_run_that_diverged_releases_each_vector_once(small_job: SmallJob) -> None:
    with make_thread_reducer(small_job, 1) as reducer:
        first = train(small_job, reducer, epochs=3)
        config = TrainingConfig(small_job.network, Momentum(), float("inf"), StopRule(3))
        diverged = ParameterDriver(config, small_job.workload.plans["train"], reducer)
        assert diverged.run(small_job.W).reason is StopReason.DIVERGED
        assert sorted(reducer._buffers._free) == [0, 1, 2, 3]
        for vector in reducer._buffers.arrays * 2:
            reducer.release(vector)
        assert sorted(reducer._buffers._free) == [0, 1, 2, 3]
        assert train(small_job, reducer, epochs=3).W.tobytes() == first.W.tobytes()


def test_a_stop_keeps_the_weights_of_the_last_step(small_job: SmallJob) -> None:
    with make_thread_reducer(small_job, 2) as reducer:
        result = train(small_job, reducer, should_stop=stop_after(4))
        kept = result.W.tobytes()
        reducer.reduce(TASK, small_job.W)
    assert (result.steps, result.reason) == (4, StopReason.TERMINATED)
    assert result.W.tobytes() == kept


def test_a_launcher_that_cannot_start_is_reported(small_job: SmallJob) -> None:
    launcher = ThreadLauncher(small_job.workload)
    launcher.backend_failure = lambda *, starting: "the daemon has exited"  # type: ignore[method-assign]
    launcher.is_paused = True
    with pytest.raises(ClusterUnreachable, match="the daemon has exited"):
        ProcessReducer(small_job.workload, Placement(1), launcher)
