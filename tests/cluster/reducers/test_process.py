"""Worker processes: the same bits through kills, delays and strangers; nothing left behind."""

import contextlib
import gc
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sumgrad.cluster.compute.worker import Task, Workload
from sumgrad.cluster.errors import WorkerLost
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import RowIndices
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.cluster.reducers.process import ProcessReducer
from sumgrad.cluster.training.driver import ParameterDriver, TrainingConfig
from sumgrad.cluster.training.state import TrainingResult
from sumgrad.cluster.training.stopping import StopReason, StopRule
from sumgrad.cluster.transport.connection import Address
from sumgrad.cluster.workers.scaling_policy import ScalingPolicy
from sumgrad.model.optimizers import Momentum
from sumgrad.model.validation import Array
from tests.cluster.processes import ProcessLauncher
from tests.cluster.small_job import SmallJob


@dataclass(frozen=True)
class Slow(ArraySource):
    """Rows that come slowly to one of the workers: to whoever has a certain process id first."""

    seconds: float
    marker: str

    def read(self, rows: RowIndices, out: Array | None = None) -> tuple[Array, NDArray[np.generic]]:
        with contextlib.suppress(FileExistsError), Path(self.marker).open("x") as marker:
            marker.write(str(os.getpid()))
        if Path(self.marker).read_text() == str(os.getpid()):
            with Path(f"{self.marker}.fetched").open("a") as fetched:
                fetched.write("x")
            time.sleep(self.seconds)
        return super().read(rows, out)


def processor_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def train(
    job: SmallJob, reducer: GradientReducer, on_step: Callable[[int], None] = lambda _: None
) -> TrainingResult:
    config = TrainingConfig(job.network, Momentum(), 0.1, StopRule(3))
    plan = job.workload.plans["train"]
    driver = ParameterDriver(config, plan, reducer, validate=True, on_step=on_step)
    return driver.run(job.W)


@pytest.fixture(scope="module")
def alone(small_job: SmallJob) -> TrainingResult:
    with InlineReducer(small_job.workload) as reducer:
        return train(small_job, reducer)


@pytest.fixture
def started() -> Iterator[Callable[[Workload, int], ProcessReducer]]:
    """Starts exchanges that end with the test."""
    exchanges: list[ProcessReducer] = []

    def start(workload: Workload, workers: int) -> ProcessReducer:
        exchanges.append(ProcessReducer(workload, workers, ProcessLauncher(workload)))
        return exchanges[-1]

    yield start
    for reducer in exchanges:
        reducer.close()


Start = Callable[[Workload, int], ProcessReducer]


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8])
def test_processes_give_the_bits_of_inline(
    small_job: SmallJob, alone: TrainingResult, started: Start, workers: int
) -> None:
    outcome = train(small_job, started(small_job.workload, workers))
    assert outcome.W.tobytes() == alone.W.tobytes()
    assert (outcome.report, alone.report) != (None, None)
    assert outcome.report is not None
    assert alone.report is not None
    assert outcome.report.train_loss == alone.report.train_loss
    assert outcome.report.validation == alone.report.validation
    assert outcome.instances == alone.instances


@pytest.mark.parametrize(
    ("workers", "far"), [(1, {0}), (2, {0, 1}), (3, {2}), (5, {0, 2, 4})], ids=str
)
def test_workers_of_other_machines_give_the_bits_of_inline(
    small_job: SmallJob, alone: TrainingResult, workers: int, far: set[int]
) -> None:
    launcher = ProcessLauncher(small_job.workload, far=frozenset(far))
    with ProcessReducer(
        small_job.workload, workers, launcher, ScalingPolicy(host="127.0.0.1")
    ) as reducer:
        before = reducer.pids
        outcome = train(small_job, reducer)
        assert reducer.pids == before
    assert outcome.W.tobytes() == alone.W.tobytes()


def test_lanes_of_other_machines_give_the_bits_of_inline(
    small_job: SmallJob, alone: TrainingResult
) -> None:
    launcher = ProcessLauncher(small_job.workload, far=frozenset({0, 2}), lanes=3)
    with ProcessReducer(
        small_job.workload, 3, launcher, ScalingPolicy(host="127.0.0.1")
    ) as reducer:
        assert reducer.workers == 7
        assert train(small_job, reducer).W.tobytes() == alone.W.tobytes()


def test_a_killed_worker_of_another_machine_costs_no_bit(
    small_job: SmallJob, alone: TrainingResult
) -> None:
    launcher = ProcessLauncher(small_job.workload, far=frozenset({0, 1}))
    with ProcessReducer(
        small_job.workload, 3, launcher, ScalingPolicy(host="127.0.0.1")
    ) as reducer:
        before = reducer.pids

        def kill(step: int) -> None:
            if step == 1 and reducer.pids == before:
                os.kill(before[1], signal.SIGKILL)

        outcome = train(small_job, reducer, kill)
        assert reducer.pids.get(1) != before[1]
    assert outcome.W.tobytes() == alone.W.tobytes()


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_threads_give_the_bits_of_one(
    small_job: SmallJob, alone: TrainingResult, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sumgrad.cluster.compute.threads.MIN_WORK_FOR_THREADS", 0)
    with InlineReducer(small_job.workload, workers) as reducer:
        assert train(small_job, reducer).W.tobytes() == alone.W.tobytes()


def test_a_killed_worker_costs_that_worker_and_no_bit(
    small_job: SmallJob, alone: TrainingResult, started: Start
) -> None:
    reducer = started(small_job.workload, 3)
    before = reducer.pids

    def kill(step: int) -> None:
        if step == 1 and reducer.pids == before:
            os.kill(before[1], signal.SIGKILL)

    outcome = train(small_job, reducer, kill)
    assert outcome.W.tobytes() == alone.W.tobytes()
    assert {w: reducer.pids[w] for w in (0, 2)} == {w: before[w] for w in (0, 2)}
    assert reducer.pids.get(1) != before[1]


def test_all_workers_killed_at_once_are_replaced(
    small_job: SmallJob, alone: TrainingResult, started: Start
) -> None:
    reducer = started(small_job.workload, 2)
    before = reducer.pids

    def kill(step: int) -> None:
        if reducer.pids == before:
            for pid in before.values():
                os.kill(pid, signal.SIGKILL)

    assert train(small_job, reducer, kill).W.tobytes() == alone.W.tobytes()
    assert not set(reducer.pids.values()) & set(before.values())


def test_a_slow_worker_is_helped_and_no_bit_changes(
    small_job: SmallJob, started: Start, tmp_path: Path
) -> None:
    whole = small_job.workload.sources["full"]
    assert isinstance(whole, ArraySource)
    slow = Slow(whole.x, whole.d, 0.1, str(tmp_path / "slow"))
    workload = replace(small_job.workload, sources={"full": slow})
    reducer = started(workload, 2)
    task = Task("gradient", "full")
    began, cpu = time.monotonic(), time.process_time()
    total = reducer.reduce(task, small_job.W)
    seconds, burnt = time.monotonic() - began, time.process_time() - cpu
    with InlineReducer(small_job.workload) as inline:
        exact = inline.reduce(task, small_job.W)
    assert total.gradient is not None
    assert exact.gradient is not None
    assert total.gradient.tobytes() == exact.gradient.tobytes()
    # Half of the microbatches were its own; waiting for it takes no processor.
    assert workload.plan(task).num_microbatches == 12
    assert len((tmp_path / "slow.fetched").read_text()) < 6
    assert burnt < seconds / 4


def test_workers_that_wait_use_no_processor(small_job: SmallJob, started: Start) -> None:
    reducer = started(small_job.workload, 2)
    # Quick steps, after which they look for the next one for half a millisecond.
    train(small_job, reducer)
    before = [processor_seconds(pid) for pid in reducer.pids.values()]
    time.sleep(1.0)
    after = [processor_seconds(pid) for pid in reducer.pids.values()]
    assert max(now - then for then, now in zip(before, after, strict=True)) < 0.05


def test_a_worker_that_cannot_start_is_told(small_job: SmallJob) -> None:
    class Stillborn(ProcessLauncher):
        def start(self, worker: int, address: Address, secret: bytes) -> None:
            super().start(worker, address, b"another secret")

    with pytest.raises(WorkerLost, match="worker 0 was lost while starting"):
        ProcessReducer(small_job.workload, 1, Stillborn(small_job.workload))


def test_nothing_is_left_behind(small_job: SmallJob) -> None:
    # What earlier tests let go of may still wait for the collector.
    gc.collect()
    descriptors = open_descriptors()
    launcher = ProcessLauncher(small_job.workload)
    with ProcessReducer(small_job.workload, 2, launcher) as reducer:
        reducer.reduce(Task("gradient", "full"), small_job.W)
        pids = list(reducer.pids.values())
        address = reducer._group._connections.address
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    with pytest.raises(ConnectionRefusedError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(address.local))
    del reducer
    gc.collect()
    assert open_descriptors() <= descriptors


def test_vectors_are_used_again(small_job: SmallJob, started: Start) -> None:
    reducer = started(small_job.workload, 2)
    first = train(small_job, reducer)
    reducer.reduce(Task("gradient", "full"), small_job.W)
    vectors = len(reducer._vectors.arrays)
    second = train(small_job, reducer)
    reducer.reduce(Task("gradient", "full"), small_job.W)
    assert len(reducer._vectors.arrays) == vectors == 3
    assert second.W.tobytes() == first.W.tobytes()


def test_a_run_that_diverged_gives_each_vector_back_once(
    small_job: SmallJob, started: Start
) -> None:
    reducer = started(small_job.workload, 1)
    first = train(small_job, reducer)
    config = TrainingConfig(small_job.network, Momentum(), float("inf"), StopRule(3))
    diverged = ParameterDriver(config, small_job.workload.plans["train"], reducer)
    assert diverged.run(small_job.W).reason is StopReason.DIVERGED
    assert sorted(reducer._vectors._free) == [0, 1, 2]
    for vector in reducer._vectors.arrays * 2:
        reducer.release(vector)
    assert sorted(reducer._vectors._free) == [0, 1, 2]
    assert train(small_job, reducer).W.tobytes() == first.W.tobytes()


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux has such policies")
def test_a_worker_that_is_started_while_others_compute_is_no_batch_task(
    small_job: SmallJob, started: Start
) -> None:
    reducer = started(small_job.workload, 2)
    before = reducer.pids
    os.kill(before[1], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while reducer.pids.get(1) in (None, before[1]):
        assert time.monotonic() < deadline
        reducer.reduce(Task("gradient", "full"), small_job.W)
    assert os.sched_getscheduler(reducer.pids[1]) == os.SCHED_OTHER
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


class Closing(ProcessLauncher):
    """Counts how often it is closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1
        super().close()


def test_closing_twice_is_as_closing_once(small_job: SmallJob) -> None:
    launcher = Closing(small_job.workload)
    reducer = ProcessReducer(small_job.workload, 1, launcher)
    reducer.close()
    reducer.close()
    assert launcher.closed == 1


@pytest.mark.parametrize(
    "place",
    [
        "sumgrad.cluster.transport.memfd.create",
        "sumgrad.cluster.transport.server.Listener",
        "sumgrad.cluster.workers.worker_group.WorkerGroup.start",
    ],
)
def test_an_exchange_that_cannot_be_made_leaves_nothing(
    small_job: SmallJob, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(24, "Too many open files")

    gc.collect()
    descriptors = open_descriptors()
    launcher = Closing(small_job.workload)
    monkeypatch.setattr(place, refuse)
    with pytest.raises(OSError, match="Too many open files"):
        ProcessReducer(small_job.workload, 1, launcher)
    assert launcher.closed == 1
    gc.collect()
    assert open_descriptors() <= descriptors


def test_a_slow_worker_of_another_machine_has_its_rest_copied(
    small_job: SmallJob, tmp_path: Path
) -> None:
    whole, marker = small_job.workload.sources["full"], tmp_path / "slow"
    assert isinstance(whole, ArraySource)
    slow = Slow(whole.x, whole.d, 0.3, str(marker))
    workload = replace(small_job.workload, sources={"full": slow})
    launcher = ProcessLauncher(workload, far=frozenset({1}))
    task, marker_of_nobody = Task("gradient", "full"), "0"
    marker.write_text(marker_of_nobody)
    with (
        InlineReducer(small_job.workload) as inline,
        ProcessReducer(workload, 2, launcher, ScalingPolicy(host="127.0.0.1")) as reducer,
    ):
        before = reducer.pids
        exact = inline.reduce(task, small_job.W).gradient
        assert exact is not None
        reducer.reduce(task, small_job.W)
        marker.write_text(str(before[1]))
        for _ in range(3):
            began = time.monotonic()
            total = reducer.reduce(task, small_job.W)
            seconds = time.monotonic() - began
            assert total.gradient is not None
            assert total.gradient.tobytes() == exact.tobytes()
            # Its six microbatches take it 1.8 s.
            assert seconds < 1.0
        assert reducer.pids == before, "it is slow, and not gone"
        assert 1 in reducer._in_flight


def test_workers_end_when_the_driver_is_gone(small_job: SmallJob, started: Start) -> None:
    reducer = started(small_job.workload, 2)
    pids = reducer.pids
    for member in reducer._group.members.values():
        member.channel.close()
    deadline = time.monotonic() + 20
    while any(running(pid) for pid in pids.values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    reducer._group.members.clear()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def running(pid: int) -> bool:
    """Whether a process is there and is not waiting to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_stop_keeps_the_weights_of_the_last_step(small_job: SmallJob, started: Start) -> None:
    reducer = started(small_job.workload, 2)
    steps: list[int] = []
    config = TrainingConfig(small_job.network, Momentum(), 0.1, StopRule(3))
    driver = ParameterDriver(
        config,
        small_job.workload.plans["train"],
        reducer,
        on_step=steps.append,
        should_stop=lambda: StopReason.INTERRUPTED if len(steps) == 4 else None,
    )
    outcome = driver.run(small_job.W)
    kept = outcome.W.tobytes()
    reducer.reduce(Task("gradient", "full"), small_job.W)
    assert (outcome.steps, outcome.reason) == (4, StopReason.INTERRUPTED)
    assert outcome.W.tobytes() == kept
