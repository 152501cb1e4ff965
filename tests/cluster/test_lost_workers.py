"""Workers that are killed, frozen, slow, failing or missing: the same bits, and the right words."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cluster import crew, patience
from cluster.channel import Address
from cluster.convergence import StopReason, StopRule
from cluster.crew import CrewRules
from cluster.driver import ParameterDriver, Recipe
from cluster.errors import ClusterUnreachable, ShardFailed
from cluster.exchange import Exchange, InlineExchange
from cluster.plan import Rows
from cluster.process_exchange import ProcessExchange
from cluster.source import ArraySource
from cluster.state import Outcome
from cluster.worker import Task
from model.checks import Array
from model.optimizers import Momentum
from tests.cluster.processes import ProcessLauncher
from tests.cluster.small_job import SmallJob

TASK = Task("gradient", "full")


def train(
    job: SmallJob,
    exchange: Exchange,
    epochs: int,
    on_step: Callable[[], None] = lambda: None,
    should_stop: Callable[[], StopReason | None] = lambda: None,
) -> Outcome:
    recipe = Recipe(job.network, Momentum(), 0.1, StopRule(epochs))
    driver = ParameterDriver(
        recipe,
        job.workload.plans["train"],
        exchange,
        validate=True,
        on_step=lambda _: on_step(),
        should_stop=should_stop,
    )
    return driver.run(job.W)


def alone(job: SmallJob, epochs: int) -> bytes:
    """The weights of an undisturbed run."""
    with InlineExchange(job.workload) as exchange:
        return train(job, exchange, epochs).W.tobytes()


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
) -> Iterator[ProcessExchange]:
    launcher = launcher or ProcessLauncher(job.workload)
    all_rules = replace(CrewRules(note=notes.append), **rules)  # type: ignore[arg-type]
    with ProcessExchange(job.workload, [1] * count, launcher, all_rules) as exchange:
        yield exchange


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# --- killed


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_every_step_cost_no_bit(small_job: SmallJob, notes: list[str], seed: int) -> None:
    """Several at once, those that were just started too, sometimes all of them."""
    generator = random.Random(seed)
    with workers(small_job, 3, notes) as exchange:
        kills = 0

        def strike() -> None:
            nonlocal kills
            present = exchange.pids
            for worker in generator.sample(sorted(present), generator.randint(0, len(present))):
                kill(present[worker])
                kills += 1
            time.sleep(generator.uniform(0, 0.3))

        outcome = train(small_job, exchange, 8, strike)
    assert outcome.failure is None
    assert outcome.W.tobytes() == alone(small_job, 8)
    assert kills > 10


def test_the_last_worker_is_enough(small_job: SmallJob, notes: list[str]) -> None:
    with workers(small_job, 3, notes) as exchange:
        before = exchange.pids

        def strike() -> None:
            for worker in (0, 2):
                if exchange.pids.get(worker) is not None:
                    kill(exchange.pids[worker])

        outcome = train(small_job, exchange, 4, strike)
        assert exchange.pids[1] == before[1], "who was not killed is not touched"
    assert outcome.W.tobytes() == alone(small_job, 4)
    assert "worker 0 is gone; another takes its place" in notes


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
    with workers(small_job, 1, notes, launcher) as exchange:
        before = exchange.pids

        def strike() -> None:
            if exchange.pids == before:
                kill(before[0])

        outcome = train(small_job, exchange, 2, strike)
    assert launcher.starts == 4
    assert outcome.W.tobytes() == alone(small_job, 2)
    assert sum("did not start (its process ended with -9)" in note for note in notes) == 2


# --- frozen, wedged, slow


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_LOST_S", 1.0)


@pytest.mark.usefixtures("short_patience")
@pytest.mark.parametrize("far", [False, True], ids=["here", "on another machine"])
def test_a_frozen_worker_is_helped_and_then_replaced(
    small_job: SmallJob, notes: list[str], far: bool
) -> None:
    launcher = ProcessLauncher(small_job.workload, far=frozenset({1} if far else ()))
    with workers(small_job, 2, notes, launcher, host="127.0.0.1") as exchange:
        before, longest, last = exchange.pids, 0.0, 0.0
        frozen: list[int] = []

        def strike() -> None:
            nonlocal longest, last
            now = time.monotonic()
            if not frozen and exchange._serial == 5:
                os.kill(before[1], signal.SIGSTOP)
                frozen.append(before[1])
            elif frozen:
                longest = max(longest, now - last)
            last = now

        replaced = False

        def until_replaced() -> StopReason | None:
            nonlocal replaced
            replaced = exchange.pids.get(1) not in (None, before[1])
            return StopReason.TERMINATED if replaced else None

        outcome = train(small_job, exchange, 10**6, strike, until_replaced)
        assert exchange.pids[0] == before[0]
    assert replaced
    assert outcome.failure is None
    assert any("worker 1 has not answered for" in note for note in notes)
    # It was given up after a second; no step waited for that long.
    assert longest < 0.5
    assert outcome.W.tobytes() == after_steps(small_job, outcome.steps)


def after_steps(job: SmallJob, steps: int) -> bytes:
    """The weights of an undisturbed run after so many steps."""
    left = iter(range(steps))
    with InlineExchange(job.workload) as exchange:
        stop = StopReason.TERMINATED
        outcome = train(
            job, exchange, 10**6, should_stop=lambda: None if next(left, None) is not None else stop
        )
    assert outcome.steps == steps
    return outcome.W.tobytes()


def test_one_that_wakes_up_goes_on_and_its_old_answer_is_dropped(
    small_job: SmallJob, notes: list[str]
) -> None:
    with workers(small_job, 2, notes) as exchange:
        before = exchange.pids
        exchange.total(TASK, small_job.W)
        os.kill(before[1], signal.SIGSTOP)
        for _ in range(5):
            exchange.total(TASK, small_job.W)
        assert set(exchange._asked) == {1}, "it has not answered the first of these"
        asked = exchange._asked[1].serial
        assert asked < exchange._serial
        os.kill(before[1], signal.SIGCONT)
        deadline = time.monotonic() + 10
        while 1 in exchange._asked and exchange._asked[1].serial == asked:
            assert time.monotonic() < deadline
            total = exchange.total(TASK, small_job.W)
        assert exchange.pids == before
        outcome = train(small_job, exchange, 3)
    assert total.gradient is not None
    assert outcome.W.tobytes() == alone(small_job, 3)
    assert notes == []


@dataclass(frozen=True)
class Stuck(ArraySource):
    """Rows of which one never comes, to whoever asks for it first."""

    row: int
    marker: str

    def fetch(self, rows: Rows, into: Array | None = None) -> tuple[Array, NDArray[np.generic]]:
        if self.row in np.arange(len(self.x))[rows]:
            with suppress(FileExistsError), Path(self.marker).open("x"):
                threading.Event().wait()
        return super().fetch(rows, into)


def with_source(job: SmallJob, kind: type[ArraySource], *facts: object) -> SmallJob:
    """The job with another source for its training rows."""
    whole = job.workload.sources["full"]
    assert isinstance(whole, ArraySource)
    sources = {**job.workload.sources, "full": kind(whole.x, whole.d, *facts)}
    return replace(job, workload=replace(job.workload, sources=sources))


def test_a_wedged_worker_is_replaced(
    small_job: SmallJob, notes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "_LOST_UNMEASURED_S", 1.0)
    job = with_source(small_job, Stuck, 100, str(tmp_path / "met"))
    with workers(job, 2, notes) as exchange:
        total = exchange.total(TASK, job.W)
    with InlineExchange(small_job.workload) as inline:
        exact = inline.total(TASK, small_job.W)
    assert total.gradient is not None
    assert exact.gradient is not None
    assert total.gradient.tobytes() == exact.gradient.tobytes()


# --- failing


@dataclass(frozen=True)
class Faulty(ArraySource):
    """Rows of which one raises: so often, or always."""

    row: int
    marker: str | None

    def fetch(self, rows: Rows, into: Array | None = None) -> tuple[Array, NDArray[np.generic]]:
        if self.row in np.arange(len(self.x))[rows]:
            if self.marker is None:
                raise ValueError("this row is rotten")
            with suppress(FileExistsError), Path(self.marker).open("x"):
                raise MemoryError("no room just now")
        return super().fetch(rows, into)


def test_bad_rows_fail_on_two_workers_and_end_the_run(
    small_job: SmallJob, notes: list[str]
) -> None:
    job = with_source(small_job, Faulty, 61, None)
    with workers(job, 3, notes) as exchange:
        before = exchange.pids
        with pytest.raises(ShardFailed) as caught:
            exchange.total(TASK, job.W)
        assert exchange.pids == before, "the fault is the data's, no worker's"
    failure = caught.value
    assert (failure.shard, failure.source, list(failure.rows)) == (6, "full", [61])
    assert "ValueError: this row is rotten" in str(failure)
    assert "failed on it as well" in str(failure)
    assert len(notes) == 1
    assert "another one tries" in notes[0]


def test_a_passing_fault_costs_no_bit(
    small_job: SmallJob, notes: list[str], tmp_path: Path
) -> None:
    job = with_source(small_job, Faulty, 61, str(tmp_path / "met"))
    with workers(job, 2, notes) as exchange:
        total = exchange.total(TASK, job.W)
        assert total.gradient is not None
        disturbed = total.gradient.tobytes()
        total = exchange.total(TASK, job.W)
        assert total.gradient is not None
        assert total.gradient.tobytes() == disturbed
    with InlineExchange(small_job.workload) as inline:
        exact = inline.total(TASK, small_job.W)
    assert exact.gradient is not None
    assert disturbed == exact.gradient.tobytes()
    assert "MemoryError: no room just now" in notes[0]


def test_inline_names_the_row_as_well(small_job: SmallJob) -> None:
    job = with_source(small_job, Faulty, 61, None)
    with InlineExchange(job.workload) as exchange, pytest.raises(ShardFailed) as caught:
        exchange.total(TASK, job.W)
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

    def ended(self, worker: int) -> str | None:
        return None if self.is_barren else super().ended(worker)

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
    monkeypatch.setattr(crew, "_REPLACEMENT_S", 0.5)
    with workers(small_job, 2, notes, barren, least=2, wait_s=60) as exchange:
        before = exchange.pids

        def strike() -> None:
            if exchange.pids == before:
                barren.is_barren = True
                kill(before[0])
                threading.Timer(3.0, barren.bloom).start()

        outcome = train(small_job, exchange, 10**6, strike, lambda: done(notes))
        assert exchange.pids[1] == before[1]
    assert outcome.W.tobytes() == after_steps(small_job, outcome.steps)
    waiting = next(note for note in notes if note.startswith("waiting"))
    assert "1 of the 2 workers that the job needs at least" in waiting


def done(notes: list[str]) -> StopReason | None:
    """A reason to stop once it has been waited."""
    return StopReason.TERMINATED if "2 workers again: going on" in notes else None


@pytest.mark.parametrize("left", [0, 1])
def test_with_too_few_for_too_long_it_ends_with_a_snapshot(
    small_job: SmallJob,
    notes: list[str],
    barren: Barren,
    left: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crew, "_REPLACEMENT_S", 0.5)
    with workers(small_job, 2, notes, barren, least=2, wait_s=2) as exchange:

        def strike() -> None:
            barren.is_barren = True
            for pid in list(exchange.pids.values())[left:]:
                kill(pid)

        outcome = train(small_job, exchange, 10**6, strike)
    assert outcome.reason is StopReason.FAILED
    assert isinstance(outcome.failure, ClusterUnreachable)
    assert outcome.failure.exit_code == 3
    assert "no more came within 2 s" in str(outcome.failure)
    assert outcome.snapshot is not None
    assert outcome.snapshot.arrays["W"].tobytes() == after_steps(small_job, outcome.steps)


def test_a_stop_is_met_while_it_waits(
    small_job: SmallJob, notes: list[str], barren: Barren
) -> None:
    def asked() -> bool:
        return any(note.startswith("waiting") for note in notes)

    with workers(small_job, 1, notes, barren, is_stopping=asked) as exchange:

        def strike() -> None:
            barren.is_barren = True
            kill(exchange.pids[0])

        outcome = train(
            small_job,
            exchange,
            10**6,
            strike,
            lambda: StopReason.TERMINATED if asked() else None,
        )
    assert outcome.reason is StopReason.TERMINATED
    assert outcome.failure is None
    assert outcome.snapshot is not None


def test_more_join_when_there_is_room(small_job: SmallJob, notes: list[str]) -> None:
    with workers(small_job, 1, notes, extra=2) as exchange:
        assert exchange.workers == 1
        outcome = train(
            small_job,
            exchange,
            10**6,
            should_stop=lambda: StopReason.TERMINATED if exchange.workers == 3 else None,
        )
    assert notes == ["worker 1 joined: 2 workers now", "worker 2 joined: 3 workers now"]
    assert outcome.W.tobytes() == after_steps(small_job, outcome.steps)
