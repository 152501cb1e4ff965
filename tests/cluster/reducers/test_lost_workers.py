"""Workers that are killed, frozen, slow, failing or missing: the same bits, and the right words."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sumgrad.cluster.compute.worker import Task
from sumgrad.cluster.errors import ClusterUnreachable, FingerprintMismatch, MicrobatchFailed
from sumgrad.cluster.planning import stragglers
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import RowIndices
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.cluster.reducers.process import ProcessReducer, _Step
from sumgrad.cluster.training.driver import ParameterDriver, TrainingConfig
from sumgrad.cluster.training.state import TrainingResult
from sumgrad.cluster.training.stopping import StopReason, StopRule
from sumgrad.cluster.transport.connection import Address
from sumgrad.cluster.transport.messages import Done, Message
from sumgrad.cluster.workers import quorum, worker_group
from sumgrad.cluster.workers.scaling_policy import ScalingPolicy
from sumgrad.model.optimizers import Momentum
from sumgrad.model.validation import Array
from tests.cluster.processes import ProcessLauncher, serve, serve_and_repeat, serve_otherwise
from tests.cluster.small_job import SmallJob

TASK = Task("gradient", "full")


def train(
    job: SmallJob,
    reducer: GradientReducer,
    epochs: int,
    on_step: Callable[[], None] = lambda: None,
    should_stop: Callable[[], StopReason | None] = lambda: None,
) -> TrainingResult:
    config = TrainingConfig(job.network, Momentum(), 0.1, StopRule(epochs))
    driver = ParameterDriver(
        config,
        job.workload.plans["train"],
        reducer,
        validate=True,
        on_step=lambda _: on_step(),
        should_stop=should_stop,
    )
    return driver.run(job.W)


def alone(job: SmallJob, epochs: int) -> bytes:
    """The weights of an undisturbed run."""
    with InlineReducer(job.workload) as reducer:
        return train(job, reducer, epochs).W.tobytes()


@pytest.fixture
def notes() -> list[str]:
    return []


@contextmanager
def workers(
    job: SmallJob,
    count: int,
    notes: list[str],
    launcher: ProcessLauncher | None = None,
    **rules: object,
) -> Iterator[ProcessReducer]:
    launcher = launcher or ProcessLauncher(job.workload)
    all_rules = replace(ScalingPolicy(note=notes.append), **rules)  # type: ignore[arg-type]
    with ProcessReducer(job.workload, count, launcher, all_rules) as reducer:
        yield reducer


def with_source(
    job: SmallJob, kind: type[ArraySource], *facts: object, name: str = "full"
) -> SmallJob:
    """The job with another source for some of its rows."""
    whole = job.workload.sources[name]
    assert isinstance(whole, ArraySource)
    sources = {**job.workload.sources, name: kind(whole.x, whole.d, *facts)}
    return replace(job, workload=replace(job.workload, sources=sources))


def sum_of(reducer: GradientReducer, job: SmallJob, task: Task = TASK) -> bytes:
    total = reducer.reduce(task, job.W)
    assert total.gradient is not None
    return total.gradient.tobytes()


def exact_sum(job: SmallJob) -> bytes:
    """Where nothing happens."""
    with InlineReducer(job.workload) as reducer:
        return sum_of(reducer, job)


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# --- killed


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_every_step_cost_no_bit(small_job: SmallJob, notes: list[str], seed: int) -> None:
    """Several at once, those that were just started too, sometimes all of them."""
    generator = random.Random(seed)
    with workers(small_job, 3, notes) as reducer:
        kills = 0

        def strike() -> None:
            nonlocal kills
            present = reducer.pids
            for worker in generator.sample(sorted(present), generator.randint(0, len(present))):
                kill(present[worker])
                kills += 1
            time.sleep(generator.uniform(0, 0.3))

        outcome = train(small_job, reducer, 8, strike)
    assert outcome.failure is None
    assert outcome.W.tobytes() == alone(small_job, 8)
    assert kills > 10


def test_the_last_worker_is_enough(small_job: SmallJob, notes: list[str]) -> None:
    with workers(small_job, 3, notes) as reducer:
        before = reducer.pids

        def strike() -> None:
            for worker in (0, 2):
                if reducer.pids.get(worker) is not None:
                    kill(reducer.pids[worker])

        both = {f"worker {worker} is gone; another takes its place" for worker in (0, 2)}
        outcome = train(small_job, reducer, 10**6, strike, once(lambda: both <= set(notes)))
        assert reducer.pids[1] == before[1], "who was not killed is not touched"
    assert outcome.W.tobytes() == after_steps(small_job, outcome.steps)


def test_one_that_dies_while_it_starts_is_started_again(
    small_job: SmallJob, notes: list[str]
) -> None:
    class Unlucky(ProcessLauncher):
        starts = 0

        def start(self, worker: int, address: Address, secret: bytes) -> None:
            super().start(worker, address, secret)
            self.starts += 1
            if self.starts in (1, 3):
                self.processes[worker].kill()

    launcher = Unlucky(small_job.workload)
    with workers(small_job, 1, notes, launcher) as reducer:
        before = reducer.pids

        def strike() -> None:
            if reducer.pids == before:
                kill(before[0])

        outcome = train(small_job, reducer, 2, strike)
    assert launcher.starts == 4
    assert outcome.W.tobytes() == alone(small_job, 2)
    assert sum("did not start (its process ended with -9)" in note for note in notes) == 2


@dataclass(frozen=True)
class Deadly(ArraySource):
    """Rows of which one kills so many processes that ask for it, in the middle of their work."""

    row: int
    deaths: int
    folder: str

    def read(self, rows: RowIndices, out: Array | None = None) -> tuple[Array, NDArray[np.generic]]:
        if self.row in np.arange(len(self.x))[rows]:
            for death in range(self.deaths):
                with suppress(FileExistsError), Path(self.folder, str(death)).open("x") as marker:
                    marker.write(str(os.getpid()))
                    marker.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
        with Path(self.folder, f"fetches-{os.getpid()}").open("a") as fetches:
            fetches.write("x")
        return super().read(rows, out)


@pytest.mark.parametrize("count", [2, 3])
def test_a_kill_in_the_middle_of_computing_costs_no_bit(
    small_job: SmallJob, notes: list[str], tmp_path: Path, count: int
) -> None:
    """Row 100 is in the last but none of twelve microbatches: the worker has summed others."""
    job = with_source(small_job, Deadly, 100, 1, str(tmp_path))
    with workers(job, count, notes) as reducer:
        before = reducer.pids
        assert sum_of(reducer, job) == exact_sum(small_job)
        killed = (tmp_path / "0").read_text()
        others = {worker: pid for worker, pid in before.items() if pid != int(killed)}
        assert len(others) == count - 1
        assert reducer.pids.items() >= others.items()
    assert len((tmp_path / f"fetches-{killed}").read_text()) > 1, "it was killed at once"
    assert len(notes) == 1
    assert "is gone; another takes its place" in notes[0]


def test_after_a_micro_shard_that_kills_its_workers_others_can_be_computed(
    small_job: SmallJob, notes: list[str], tmp_path: Path
) -> None:
    job = with_source(small_job, Deadly, 100, 3, str(tmp_path))
    with workers(job, 1, notes, wait_s=30) as reducer:
        with pytest.raises(MicrobatchFailed, match="3 workers ended or froze"):
            reducer.reduce(TASK, job.W)
        assert sum_of(reducer, job) == exact_sum(small_job)


def test_one_that_dies_while_others_start_is_replaced(
    small_job: SmallJob, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Staggered(ProcessLauncher):
        """Starts worker 1 when worker 0 has joined for the second time."""

        joined = 0
        waiting: tuple[int, Address, bytes]

        def start(self, worker: int, address: Address, secret: bytes) -> None:
            if worker == 1 and self.joined < 2:
                self.waiting = (worker, address, secret)
            else:
                super().start(worker, address, secret)

        def exit_reason(self, worker: int) -> str | None:
            return super().exit_reason(worker) if worker in self.processes else None

        def has_joined(self) -> None:
            self.joined += 1
            if self.joined == 1:
                self.processes[0].kill()
            elif self.joined == 2:
                self.start(*self.waiting)

    launcher = Staggered(small_job.workload)
    joined = worker_group.WorkerGroup._joined

    def spy(self: worker_group.WorkerGroup, worker: int) -> None:
        joined(self, worker)
        if worker == 0:
            launcher.has_joined()

    monkeypatch.setattr(worker_group.WorkerGroup, "_joined", spy)
    monkeypatch.setattr(worker_group, "START_DEADLINE_S", 20.0)
    with workers(small_job, 2, notes, launcher) as reducer:
        assert sorted(reducer.pids) == [0, 1]
        assert sum_of(reducer, small_job) == exact_sum(small_job)
    assert notes == ["worker 0 is gone; another takes its place"]


class Hanging(ProcessLauncher):
    """Freezes a process before it has said anything."""

    starts = 0
    hangs = 3

    def start(self, worker: int, address: Address, secret: bytes) -> None:
        super().start(worker, address, secret)
        self.starts += 1
        if self.starts == self.hangs:
            os.kill(self.processes[worker].pid or 0, signal.SIGSTOP)


def test_one_that_hangs_while_it_starts_is_started_again(
    small_job: SmallJob, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = Hanging(small_job.workload)
    with workers(small_job, 2, notes, launcher) as reducer:
        before = reducer.pids
        monkeypatch.setattr(worker_group, "START_DEADLINE_S", 5.0)

        def strike() -> None:
            if reducer.pids == before:
                kill(before[1])

        outcome = train(small_job, reducer, 10**6, strike, once(lambda: 1 in reducer.pids))
        assert reducer.pids[0] == before[0]
        assert reducer.pids[1] != before[1]
    assert launcher.starts >= 4
    assert "worker 1 did not start (nothing was heard of it for 5 s); it is tried again" in notes
    assert outcome.W.tobytes() == after_steps(small_job, outcome.steps)


def test_one_for_whom_there_is_no_room_is_waited_for(
    small_job: SmallJob, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = Hanging(small_job.workload)
    with workers(small_job, 2, notes, launcher, pends=lambda worker: worker == 1) as reducer:
        monkeypatch.setattr(worker_group, "START_DEADLINE_S", 1.0)
        kill(reducer.pids[1])
        until = time.monotonic() + 4
        train(small_job, reducer, 10**6, should_stop=once(lambda: time.monotonic() > until))
        assert 1 not in reducer.pids
    assert launcher.starts == 3
    assert notes == ["worker 1 is gone; another takes its place"]


def once(condition: Callable[[], bool]) -> Callable[[], StopReason | None]:
    """A reason to stop when it holds, after it has not held."""
    was_open = False

    def reason() -> StopReason | None:
        nonlocal was_open
        holds = condition()
        was_open = was_open or not holds
        return StopReason.TERMINATED if was_open and holds else None

    return reason


def test_a_stop_is_met_while_workers_start(small_job: SmallJob, notes: list[str]) -> None:
    launcher = Barren(small_job.workload)
    launcher.is_barren = True
    began = time.monotonic()
    with (
        pytest.raises(ClusterUnreachable, match="stopped while 2 of 2"),
        workers(small_job, 2, notes, launcher, is_stopping=lambda: time.monotonic() > began + 0.5),
    ):
        pass
    assert time.monotonic() - began < 3


# --- of another arithmetic


def test_a_worker_of_another_arithmetic_is_refused_at_the_start(
    small_job: SmallJob, notes: list[str]
) -> None:
    launcher = ProcessLauncher(small_job.workload)
    launcher.target = serve_otherwise
    with (
        pytest.raises(FingerprintMismatch, match="worker 0's canary is another"),
        workers(small_job, 1, notes, launcher),
    ):
        pass


@pytest.mark.parametrize("extra", [0, 1], ids=["in another's place", "one more"])
def test_one_of_another_arithmetic_that_comes_later_is_turned_away(
    small_job: SmallJob, notes: list[str], extra: int
) -> None:
    class Mixed(ProcessLauncher):
        starts = 0
        strangers: list[BaseProcess]

        def start(self, worker: int, address: Address, secret: bytes) -> None:
            self.starts += 1
            self.target = serve_otherwise if self.starts in (3, 4) else serve
            super().start(worker, address, secret)
            if self.starts in (3, 4):
                self.strangers = [*getattr(self, "strangers", []), self.processes[worker]]

    launcher = Mixed(small_job.workload)
    with workers(small_job, 2, notes, launcher, extra=extra) as reducer:
        before, place = reducer.pids, 2 if extra else 1

        def strike() -> None:
            if not extra and reducer.pids == before:
                kill(before[1])

        outcome = train(small_job, reducer, 10**6, strike, once(lambda: place in reducer.pids))
        assert reducer.pids[0] == before[0]
        assert [process.exitcode for process in launcher.strangers] == [-signal.SIGKILL] * 2
    assert outcome.failure is None
    assert outcome.W.tobytes() == after_steps(small_job, outcome.steps)
    turned_away = [note for note in notes if "was turned away" in note]
    assert len(turned_away) == 2
    assert turned_away[0].startswith(
        f"worker {place} was turned away (worker {place}'s canary is another, the driver's is "
    )


# --- frozen, wedged, slow


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stragglers, "_LOST_S", 1.0)


@pytest.mark.usefixtures("short_patience")
@pytest.mark.parametrize("far", [False, True], ids=["here", "on another machine"])
def test_a_frozen_worker_is_helped_and_then_replaced(
    small_job: SmallJob, notes: list[str], far: bool
) -> None:
    launcher = ProcessLauncher(small_job.workload, far=frozenset({1} if far else ()))
    with workers(small_job, 2, notes, launcher, host="127.0.0.1") as reducer:
        before, longest, last = reducer.pids, 0.0, 0.0
        frozen: list[int] = []

        def strike() -> None:
            nonlocal longest, last
            now = time.monotonic()
            if not frozen and reducer._step_id == 5:
                os.kill(before[1], signal.SIGSTOP)
                frozen.append(before[1])
            elif frozen:
                longest = max(longest, now - last)
            last = now

        replaced = False

        def until_replaced() -> StopReason | None:
            nonlocal replaced
            replaced = reducer.pids.get(1) not in (None, before[1])
            return StopReason.TERMINATED if replaced else None

        outcome = train(small_job, reducer, 10**6, strike, until_replaced)
        assert reducer.pids[0] == before[0]
    assert replaced
    assert outcome.failure is None
    assert any("worker 1 has not answered for" in note for note in notes)
    # It was given up after a second; no step waited for that long.
    assert longest < 0.5
    assert outcome.W.tobytes() == after_steps(small_job, outcome.steps)


def after_steps(job: SmallJob, steps: int) -> bytes:
    """The weights of an undisturbed run after so many steps."""
    left = iter(range(steps))
    with InlineReducer(job.workload) as reducer:
        stop = StopReason.TERMINATED
        outcome = train(
            job, reducer, 10**6, should_stop=lambda: None if next(left, None) is not None else stop
        )
    assert outcome.steps == steps
    return outcome.W.tobytes()


@dataclass(frozen=True)
class Sleepy(ArraySource):
    """Rows of which one, while a file is there, freezes whoever asks for it; the file is gone then.

    All of them take their time, so that there is time for an answer to come in between.
    """

    row: int
    armed: str

    def read(self, rows: RowIndices, out: Array | None = None) -> tuple[Array, NDArray[np.generic]]:
        if self.row in np.arange(len(self.x))[rows]:
            with suppress(FileNotFoundError):
                Path(self.armed).unlink()
                os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.01)
        return super().read(rows, out)


class Credulous(ProcessReducer):
    """The mutation: whatever a worker answers is taken for an answer to the latest question."""

    def _on_reply(self, step: _Step, worker: int, message: Message) -> None:
        if isinstance(message, Done):
            message = replace(message, step_id=step.step_id)
        super()._on_reply(step, worker, message)


def wake_one_up(
    job: SmallJob, notes: list[str], armed: Path, kind: type[ProcessReducer]
) -> tuple[bytes, bytes]:
    """The sum of a step in whose beginning an answer to an earlier one comes, and the exact one.

    Each step is another and has other weights, so that no old sum is right by chance.
    """
    row = int(job.workload.plans["train"].step(1, 0).row_indices(1)[0])
    sleepy = with_source(job, Sleepy, row, str(armed), name="train")
    tasks = [Task("gradient", "train", epoch) for epoch in (9, 1, 2, 3, 4)]
    rules = ScalingPolicy(note=notes.append)
    launcher = ProcessLauncher(sleepy.workload)
    with (
        InlineReducer(job.workload) as inline,
        kind(sleepy.workload, 2, launcher, rules) as reducer,
    ):
        before = reducer.pids
        for number, task in enumerate(tasks):
            if task.epoch == 1:
                armed.touch()
            elif task.epoch == 4:
                (late,) = reducer._in_flight
                assert reducer._in_flight[late].step_id == 2, (
                    "it has not answered the second of these"
                )
                os.kill(before[late], signal.SIGCONT)
                time.sleep(0.5)
            W = job.W * np.float32(1 + number)
            total, exact = reducer.reduce(task, W).gradient, inline.reduce(task, W).gradient
            assert total is not None
            assert exact is not None
            found = total.tobytes(), exact.tobytes()
            if task.epoch < 4:
                assert found[0] == found[1]
        assert reducer.pids == before
        assert not armed.exists()
        return found


def test_one_that_wakes_up_goes_on_and_its_old_answer_is_dropped(
    small_job: SmallJob, notes: list[str], tmp_path: Path
) -> None:
    total, exact = wake_one_up(small_job, notes, tmp_path / "armed", ProcessReducer)
    assert total == exact
    assert notes == []


def test_mutation_an_old_answer_that_is_not_dropped_is_caught(
    small_job: SmallJob, notes: list[str], tmp_path: Path
) -> None:
    total, exact = wake_one_up(small_job, notes, tmp_path / "armed", Credulous)
    assert total != exact


@dataclass(frozen=True)
class Stuck(ArraySource):
    """Rows of which one never comes, to whoever asks for it first."""

    row: int
    marker: str

    def read(self, rows: RowIndices, out: Array | None = None) -> tuple[Array, NDArray[np.generic]]:
        if self.row in np.arange(len(self.x))[rows]:
            with suppress(FileExistsError), Path(self.marker).open("x"):
                threading.Event().wait()
        return super().read(rows, out)


def test_a_wedged_worker_is_replaced(
    small_job: SmallJob, notes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stragglers, "_LOST_UNMEASURED_S", 1.0)
    job = with_source(small_job, Stuck, 100, str(tmp_path / "met"))
    with workers(job, 2, notes) as reducer:
        total = reducer.reduce(TASK, job.W)
    with InlineReducer(small_job.workload) as inline:
        exact = inline.reduce(TASK, small_job.W)
    assert total.gradient is not None
    assert exact.gradient is not None
    assert total.gradient.tobytes() == exact.gradient.tobytes()


def test_a_micro_shard_that_takes_long_is_given_more_time(
    small_job: SmallJob, notes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than a worker may take before anything has been measured."""
    monkeypatch.setattr(stragglers, "_LOST_UNMEASURED_S", 0.7)
    job = with_source(small_job, Lengthy, 100, 2.5)
    with workers(job, 1, notes) as reducer:
        assert sum_of(reducer, job) == exact_sum(small_job)
    assert len([note for note in notes if "has not answered for" in note]) == 2


@dataclass(frozen=True)
class Lengthy(ArraySource):
    """Rows of which one takes its time."""

    row: int
    seconds: float

    def read(self, rows: RowIndices, out: Array | None = None) -> tuple[Array, NDArray[np.generic]]:
        if self.row in np.arange(len(self.x))[rows]:
            time.sleep(self.seconds)
        return super().read(rows, out)


@dataclass(frozen=True)
class StuckThenLengthy(Stuck):
    """… and takes a second for the next ones who ask for it."""

    def read(self, rows: RowIndices, out: Array | None = None) -> tuple[Array, NDArray[np.generic]]:
        if self.row in np.arange(len(self.x))[rows] and Path(self.marker).exists():
            time.sleep(1.0)
        return super().read(rows, out)


def test_while_a_copy_is_computed_the_driver_sleeps(
    small_job: SmallJob, notes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "met"
    job = with_source(small_job, StuckThenLengthy, 100, str(marker))
    with workers(job, 3, notes) as reducer:
        # Who has a copy is late itself only when this is over once more.
        reducer._stragglers.record(("gradient", "full"), 0.3, 1)
        waits: list[float] = []
        events = reducer._group.events

        def counted(timeout: float | None) -> Iterator[tuple[int, Message | None]]:
            waits.append(timeout or 0.0)
            return events(timeout)

        monkeypatch.setattr(reducer._group, "events", counted)
        assert sum_of(reducer, job) == exact_sum(small_job)
    assert marker.exists()
    assert len(waits) < 50
    assert notes == []


# --- failing


@dataclass(frozen=True)
class Faulty(ArraySource):
    """Rows of which one raises: so often, or always."""

    row: int
    marker: str | None

    def read(self, rows: RowIndices, out: Array | None = None) -> tuple[Array, NDArray[np.generic]]:
        if self.row in np.arange(len(self.x))[rows]:
            if self.marker is None:
                raise ValueError("this row is rotten")
            with suppress(FileExistsError), Path(self.marker).open("x"):
                raise MemoryError("no room just now")
        return super().read(rows, out)


def test_bad_rows_fail_on_two_workers_and_end_the_run(
    small_job: SmallJob, notes: list[str]
) -> None:
    job = with_source(small_job, Faulty, 61, None)
    with workers(job, 3, notes) as reducer:
        before = reducer.pids
        with pytest.raises(MicrobatchFailed) as caught:
            reducer.reduce(TASK, job.W)
        assert reducer.pids == before, "the fault is the data's, no worker's"
    failure = caught.value
    assert (failure.microbatch, failure.source, list(failure.rows)) == (6, "full", [61])
    assert "ValueError: this row is rotten" in str(failure)
    assert "failed on it as well" in str(failure)
    assert len(notes) == 1
    assert "another one tries" in notes[0]


def test_a_passing_fault_costs_no_bit(
    small_job: SmallJob, notes: list[str], tmp_path: Path
) -> None:
    job = with_source(small_job, Faulty, 61, str(tmp_path / "met"))
    with workers(job, 2, notes) as reducer:
        total = reducer.reduce(TASK, job.W)
        assert total.gradient is not None
        disturbed = total.gradient.tobytes()
        total = reducer.reduce(TASK, job.W)
        assert total.gradient is not None
        assert total.gradient.tobytes() == disturbed
    with InlineReducer(small_job.workload) as inline:
        exact = inline.reduce(TASK, small_job.W)
    assert exact.gradient is not None
    assert disturbed == exact.gradient.tobytes()
    assert "MemoryError: no room just now" in notes[0]


def test_a_passing_fault_of_the_only_worker_is_tried_again(
    small_job: SmallJob, notes: list[str], tmp_path: Path
) -> None:
    """Two there are to be, but one of them is being replaced for as long as it takes."""
    job = with_source(small_job, Faulty, 61, str(tmp_path / "met"))
    launcher = Barren(job.workload)
    with workers(job, 2, notes, launcher) as reducer:
        launcher.is_barren = True
        kill(reducer.pids[1])
        assert sum_of(reducer, job) == exact_sum(small_job)
    assert any(note.endswith("MemoryError: no room just now; it tries again") for note in notes)


def test_bad_rows_fail_three_times_on_the_only_worker(
    small_job: SmallJob, notes: list[str]
) -> None:
    job = with_source(small_job, Faulty, 61, None)
    with (
        workers(job, 1, notes) as reducer,
        pytest.raises(MicrobatchFailed, match="it failed on it 3 times") as caught,
    ):
        reducer.reduce(TASK, job.W)
    assert list(caught.value.rows) == [61]
    assert len(notes) == 2


@dataclass(frozen=True)
class FaultyAndSlow(Faulty):
    """The other rows take their time."""

    def read(self, rows: RowIndices, out: Array | None = None) -> tuple[Array, NDArray[np.generic]]:
        if self.row not in np.arange(len(self.x))[rows]:
            time.sleep(0.3)
        return super().read(rows, out)


def test_after_a_failure_nobody_begins_another_micro_shard(
    small_job: SmallJob, notes: list[str]
) -> None:
    # Row 0 is in the first microbatch of the first share: that fails while others compute.
    job = with_source(small_job, FaultyAndSlow, 0, None)
    with workers(job, 3, notes) as reducer:
        with pytest.raises(MicrobatchFailed):
            reducer.reduce(TASK, job.W)
        assert reducer._in_flight, "nobody is at work"
        assert all(reducer._claims.limit(worker) == 0 for worker in reducer._in_flight)


def test_inline_names_the_row_as_well(small_job: SmallJob) -> None:
    job = with_source(small_job, Faulty, 61, None)
    with InlineReducer(job.workload) as reducer, pytest.raises(MicrobatchFailed) as caught:
        reducer.reduce(TASK, job.W)
    assert list(caught.value.rows) == [61]


# --- missing


class Barren(ProcessLauncher):
    """A place where, from some moment on, no process starts any more."""

    is_barren = False
    waiting: list[tuple[int, Address, bytes]]

    def start(self, worker: int, address: Address, secret: bytes) -> None:
        if self.is_barren:
            self.waiting = [*getattr(self, "waiting", []), (worker, address, secret)]
        else:
            super().start(worker, address, secret)

    def exit_reason(self, worker: int) -> str | None:
        return None if self.is_barren else super().exit_reason(worker)

    def bloom(self) -> None:
        """Start what was to be started meanwhile."""
        self.is_barren = False
        for start in self.waiting:
            self.start(*start)


@pytest.fixture
def barren(small_job: SmallJob) -> Barren:
    return Barren(small_job.workload)


def test_with_too_few_it_waits_and_goes_on_when_there_are_more(
    small_job: SmallJob, notes: list[str], barren: Barren, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quorum, "_REPLACEMENT_S", 0.5)
    with workers(small_job, 2, notes, barren, least=2, wait_s=60) as reducer:
        before = reducer.pids

        def strike() -> None:
            if reducer.pids == before:
                barren.is_barren = True
                kill(before[0])
                threading.Timer(3.0, barren.bloom).start()

        outcome = train(small_job, reducer, 10**6, strike, lambda: done(notes))
        assert reducer.pids[1] == before[1]
    assert outcome.W.tobytes() == after_steps(small_job, outcome.steps)
    waiting = next(note for note in notes if note.startswith("waiting"))
    assert "1 of the 2 workers that the job needs at least" in waiting


def done(notes: list[str]) -> StopReason | None:
    """A reason to stop once it has been waited."""
    return StopReason.TERMINATED if "2 workers again: going on" in notes else None


def test_how_long_there_were_too_few_is_forgotten_when_there_are_enough(
    small_job: SmallJob, notes: list[str]
) -> None:
    with workers(small_job, 1, notes) as reducer:
        reducer._group._quorum._few_since = time.monotonic() - 1000
        reducer._group._pending[0] = worker_group._PendingWorker()
        reducer._group._joined(0)
        assert reducer._group._quorum._few_since is None


@pytest.mark.parametrize("left", [0, 1])
def test_with_too_few_for_too_long_it_ends_with_a_snapshot(
    small_job: SmallJob,
    notes: list[str],
    barren: Barren,
    left: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quorum, "_REPLACEMENT_S", 0.5)
    with workers(small_job, 2, notes, barren, least=2, wait_s=2) as reducer:

        def strike() -> None:
            barren.is_barren = True
            for pid in list(reducer.pids.values())[left:]:
                kill(pid)

        outcome = train(small_job, reducer, 10**6, strike)
    assert outcome.reason is StopReason.FAILED
    assert isinstance(outcome.failure, ClusterUnreachable)
    assert "no more came within 2 s" in str(outcome.failure)
    assert outcome.snapshot is not None
    assert outcome.snapshot.arrays["W"].tobytes() == after_steps(small_job, outcome.steps)


def test_a_stop_is_met_while_it_waits(
    small_job: SmallJob, notes: list[str], barren: Barren
) -> None:
    def asked() -> bool:
        return any(note.startswith("waiting") for note in notes)

    with workers(small_job, 1, notes, barren, is_stopping=asked) as reducer:

        def strike() -> None:
            barren.is_barren = True
            kill(reducer.pids[0])

        outcome = train(
            small_job,
            reducer,
            10**6,
            strike,
            lambda: StopReason.TERMINATED if asked() else None,
        )
    assert outcome.reason is StopReason.TERMINATED
    assert outcome.failure is None
    assert outcome.snapshot is not None


def test_more_join_when_there_is_room(small_job: SmallJob, notes: list[str]) -> None:
    with workers(small_job, 1, notes, extra=2) as reducer:
        assert reducer.workers == 1
        outcome = train(
            small_job,
            reducer,
            10**6,
            should_stop=lambda: StopReason.TERMINATED if reducer.workers == 3 else None,
        )
    assert sorted(note.partition(":")[0] for note in notes) == [
        "worker 1 joined",
        "worker 2 joined",
    ]
    assert notes[-1].endswith(": 3 workers now")
    assert outcome.W.tobytes() == after_steps(small_job, outcome.steps)


# --- given back


def one_more(
    job: SmallJob, notes: list[str], launcher: ProcessLauncher | None = None, **rules: object
) -> AbstractContextManager[ProcessReducer]:
    """One worker that is kept, and one more that is starting."""
    return workers(job, 1, notes, launcher, extra=1, is_kept=lambda n: n == 0, **rules)


def test_workers_leave_and_come_back_as_others_want_some_and_want_none(
    small_job: SmallJob, notes: list[str]
) -> None:
    left = iter([1, 3, 2, 4, 1])
    share = 4
    launcher = ProcessLauncher(small_job.workload)
    with workers(
        small_job, 4, notes, launcher, is_kept=lambda worker: worker == 0, share=lambda: share
    ) as reducer:
        kept = reducer.pids[0]
        first = dict(launcher.processes)

        def strike() -> None:
            nonlocal share
            if reducer.workers == share:
                share = next(left, 0)

        outcome = train(small_job, reducer, 10**6, strike, once(lambda: share == 0))
        # It never has fewer than it needs.
        assert reducer.pids == {0: kept}
        for worker in (1, 2, 3):
            first[worker].join(10)
            assert first[worker].exitcode is not None
    assert outcome.W.tobytes() == after_steps(small_job, outcome.steps)
    assert [note for note in notes if note.startswith("gives")] == [
        f"gives CPUs to other jobs that are short of them: {number} now"
        for number in ("1 worker", "2 workers", "1 worker")
    ]
    assert all("joined" in note or note.startswith("gives") for note in notes)


def test_as_many_leave_as_have_the_cpus_that_others_want(
    small_job: SmallJob, notes: list[str]
) -> None:
    """A process of three threads has three CPUs; to give back one, a smaller one leaves."""
    share = 5
    launcher = ProcessLauncher(small_job.workload, far=frozenset({1}), lanes=3)
    with workers(
        *(small_job, 3, notes, launcher),
        host="127.0.0.1",
        is_kept=lambda worker: worker == 0,
        share=lambda: share,
    ) as reducer:
        assert reducer.workers == 5
        present: list[list[int]] = []

        def strike() -> None:
            nonlocal share
            if not present or sorted(reducer.pids) != present[-1]:
                present.append(sorted(reducer.pids))
                share -= 1

        outcome = train(small_job, reducer, 10**6, strike, once(lambda: len(present) == 3))
    assert present == [[0, 1, 2], [0, 1], [0]]
    assert outcome.W.tobytes() == after_steps(small_job, outcome.steps)


def test_who_was_invited_and_waits_for_room_is_no_longer_asked_for(
    small_job: SmallJob, notes: list[str], barren: Barren, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = 3
    barren.is_barren = True
    released: list[int] = []
    monkeypatch.setattr(barren, "release", released.append)
    with workers(*(small_job, 0, notes, barren), least=0, extra=3, share=lambda: share) as reducer:
        assert len(barren.waiting) == 3
        reducer._group._rules = replace(
            reducer._group._rules, pends=lambda _: True, is_kept=lambda _: False
        )
        share = 1
        reducer._group._look = 0.0
        reducer._group.supervise()
        assert released == [2, 1]


def test_one_who_comes_after_it_was_given_up_is_not_let_in(
    small_job: SmallJob, notes: list[str]
) -> None:
    share = 2
    launcher = ProcessLauncher(small_job.workload)
    with one_more(small_job, notes, launcher, share=lambda: share) as reducer:
        # It is starting, and not wanted any more by the time that it is there.
        assert 1 in reducer._group._pending
        del reducer._group._pending[1]
        share = 1
        process = launcher.processes[1]
        deadline = time.monotonic() + 60
        while process.exitcode is None:
            assert time.monotonic() < deadline
            sum_of(reducer, small_job)
        # It ended as one that is told that nobody wants it.
        assert process.exitcode == 0
        assert list(reducer.pids) == [0]


def test_places_of_workers_that_cannot_join_are_given_back(
    small_job: SmallJob, notes: list[str]
) -> None:
    """One of another arithmetic is tried again and again, and has a CPU all the while."""
    share = 2
    launcher = ProcessLauncher(small_job.workload)
    with one_more(small_job, notes, launcher, share=lambda: share) as reducer:
        launcher.processes[1].kill()
        reducer._group._pending[1].failed("of another arithmetic")
        reducer._group._pending[1].is_new = False
        share = 1
        reducer._group._look = 0.0
        reducer._group.supervise()
        assert not reducer._group._pending


def test_one_whose_cpus_have_moved_is_not_let_in(small_job: SmallJob, notes: list[str]) -> None:
    asked: list[int] = []

    def fits(worker: int) -> bool:
        asked.append(worker)
        return worker == 0 or len(asked) > 3

    with one_more(small_job, notes, fits=fits) as reducer:
        outcome = train(
            small_job,
            reducer,
            10**6,
            should_stop=lambda: StopReason.TERMINATED if 1 in reducer.pids else None,
        )
    assert asked == [0, 1, 1, 1]
    assert outcome.W.tobytes() == after_steps(small_job, outcome.steps)


def test_who_says_twice_who_it_is_is_gone(
    small_job: SmallJob, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = ProcessLauncher(small_job.workload)
    with workers(small_job, 2, notes, launcher) as reducer:
        before = reducer.pids
        launcher.target = serve_and_repeat
        kill(before[1])
        outcome = train(
            small_job,
            reducer,
            10**6,
            should_stop=once(lambda: sum("worker 1 is gone" in note for note in notes) > 1),
        )
    assert outcome.W.tobytes() == after_steps(small_job, outcome.steps)
