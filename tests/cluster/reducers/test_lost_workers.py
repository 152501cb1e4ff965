"""Processes that are killed, frozen, stuck or slow: the same bits, and a line for each."""

import os
import random
import select
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sumgrad.cluster.compute.worker import Task
from sumgrad.cluster.errors import MicrobatchFailed
from sumgrad.cluster.planning import stragglers
from sumgrad.cluster.planning.plan import Plan
from sumgrad.cluster.planning.work_stealing import ClaimTable, StepSchedule
from sumgrad.cluster.reducers import step as reduction_step
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.cluster.reducers.process import ProcessReducer
from sumgrad.cluster.reducers.step import ReductionStep
from sumgrad.cluster.transport.connection import Connection
from sumgrad.cluster.transport.server import Event, Reply
from sumgrad.cluster.workers.launcher import Placement
from tests.cluster.polling import record_timeouts
from tests.cluster.processes import ProcessLauncher
from tests.cluster.small_job import (
    ROWS,
    TASK,
    SmallJob,
    assert_undisturbed,
    expected_sum,
    stop_when,
    sum_bytes,
    train,
)
from tests.cluster.sources import DeadlySource, FreezingSource, LongSource, StuckSource
from tests.fuzzing import TIMES


@contextmanager
def running(job: SmallJob, workers: int, *remote: int) -> Iterator[ProcessReducer]:
    launcher = ProcessLauncher(job.workload, remote=frozenset(remote))
    placement = Placement(workers, host="127.0.0.1" if remote else None)
    with ProcessReducer(job.workload, placement, launcher) as reducer:
        yield reducer


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# --- killed


@pytest.mark.parametrize("remote", [(), (0, 1)], ids=["this machine", "another machine"])
def test_a_killed_worker_is_replaced_and_the_weights_are_bit_identical(
    small_job: SmallJob, remote: tuple[int, ...]
) -> None:
    with running(small_job, 3, *remote) as reducer:
        before = reducer.pids
        kill(before[1])
        result = train(
            small_job,
            reducer,
            should_stop=stop_when(lambda: reducer.pids.get(1) not in (None, before[1])),
        )
        assert {w: reducer.pids[w] for w in (0, 2)} == {w: before[w] for w in (0, 2)}
    assert_undisturbed(small_job, result)


def test_all_workers_killed_at_once_are_replaced(small_job: SmallJob) -> None:
    with running(small_job, 2) as reducer:
        before = reducer.pids
        for pid in before.values():
            kill(pid)
        result = train(small_job, reducer, epochs=3)
        assert not set(reducer.pids.values()) & set(before.values())
    assert_undisturbed(small_job, result)


@pytest.mark.parametrize("seed", range(max(1, TIMES)))
def test_the_weights_are_bit_identical_after_kills_at_every_step(
    small_job: SmallJob, seed: int
) -> None:
    """Several at once, those that were just started too, sometimes all of them."""
    generator = random.Random(seed)
    killed: set[int] = set()
    with running(small_job, 3) as reducer:

        def strike() -> None:
            present = reducer.pids
            for worker in generator.sample(sorted(present), generator.randint(0, len(present))):
                kill(present[worker])
                killed.add(present[worker])

        result = train(
            small_job, reducer, on_step=strike, should_stop=stop_when(lambda: len(killed) > 10)
        )
    assert_undisturbed(small_job, result)


def test_the_last_worker_is_enough(small_job: SmallJob, log: pytest.LogCaptureFixture) -> None:
    with running(small_job, 3) as reducer:
        before = reducer.pids

        def strike() -> None:
            for worker in (0, 2):
                if worker in reducer.pids:
                    kill(reducer.pids[worker])

        expected = {f"worker {worker} exited; starting a replacement" for worker in (0, 2)}
        result = train(
            small_job,
            reducer,
            on_step=strike,
            should_stop=stop_when(lambda: expected <= set(log.messages)),
        )
        assert reducer.pids[1] == before[1], "a worker that was not killed is not replaced"
    assert_undisturbed(small_job, result)


@pytest.mark.parametrize("workers", [2, 3])
def test_the_sum_is_bit_identical_after_a_kill_in_the_middle_of_a_computation(
    small_job: SmallJob, log: pytest.LogCaptureFixture, tmp_path: Path, workers: int
) -> None:
    """Row 100 is in the last but one of twelve microbatches: the worker has summed others."""
    job = small_job.with_source(DeadlySource, 100, 1, str(tmp_path))
    with running(job, workers) as reducer:
        before = reducer.pids
        assert sum_bytes(reducer, job) == expected_sum(small_job)
        killed = (tmp_path / "0").read_text()
        others = {worker: pid for worker, pid in before.items() if pid != int(killed)}
        assert len(others) == workers - 1
        assert reducer.pids.items() >= others.items()
    assert len((tmp_path / f"reads-{killed}").read_text()) > 1, "it was killed at once"
    [line] = log.messages
    assert line.endswith("exited; starting a replacement")


def test_other_tasks_can_be_computed_after_a_microbatch_that_kills_its_workers(
    small_job: SmallJob, tmp_path: Path
) -> None:
    job = small_job.with_source(DeadlySource, 100, 3, str(tmp_path))
    with running(job, 1) as reducer:
        with pytest.raises(MicrobatchFailed, match="3 workers exited or froze"):
            reducer.reduce(TASK, job.W)
        assert sum_bytes(reducer, job) == expected_sum(small_job)


def test_losses_of_remote_workers_are_charged_to_all_that_they_were_assigned(
    small_job: SmallJob, tmp_path: Path
) -> None:
    """The driver cannot see which microbatch a worker on another machine is computing."""
    job = small_job.with_source(DeadlySource, 0, 3, str(tmp_path))
    with (
        running(job, 1, 0) as reducer,
        pytest.raises(MicrobatchFailed, match="on one of the microbatches 0 to 11 ") as caught,
    ):
        reducer.reduce(TASK, job.W)
    assert list(caught.value.rows) == []


def test_workers_lost_together_do_not_count_against_their_microbatch(
    small_job: SmallJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two die while they compute the only microbatch; the third is lost before its next attempt."""
    plans = {"full": Plan(ROWS, None, ROWS)}
    whole = replace(small_job, workload=replace(small_job.workload, plans=plans))
    expected = expected_sum(whole)
    job = whole.with_source(DeadlySource, 100, 2, str(tmp_path))
    record_lost_worker = ReductionStep.record_lost_worker
    third: list[int] = []
    with running(job, 3) as reducer:
        before, events = reducer.pids, reducer._group.events

        def freeze_the_third(
            step: ReductionStep, worker: int, suspects: range, rows: Sequence[int], sent: float
        ) -> None:
            record_lost_worker(step, worker, suspects, rows, sent)
            if len(step.lost_at[suspects]) == 2:
                dead = {int((tmp_path / name).read_text()) for name in "01"}
                third.extend(worker for worker, pid in before.items() if pid not in dead)
                os.kill(before[third[0]], signal.SIGSTOP)

        def lose_the_third(timeout: float) -> Iterator[Event]:
            # The driver has assigned what it wants to assign, and waits for events.
            while third:
                lost = third.pop()
                kill(before[lost])
                wait_until_readable(reducer._group.workers[lost].connection)
            return events(timeout)

        monkeypatch.setattr(reduction_step, "_PAUSE_S", 0.5)
        monkeypatch.setattr(ReductionStep, "record_lost_worker", freeze_the_third)
        monkeypatch.setattr(reducer._group, "events", lose_the_third)
        assert sum_bytes(reducer, job) == expected
        assert not set(reducer.pids.values()) & set(before.values())


def test_a_death_counts_if_the_microbatch_was_sent_after_the_last_one() -> None:
    """Three workers compute copies of a microbatch, and are lost at once."""
    step = ReductionStep(1, TASK, 0, StepSchedule(range(1), ClaimTable.local(5)))
    suspects = range(1)
    for worker in range(3):
        step.record_lost_worker(worker, suspects, [5], sent=1.0)
    assert len(step.lost_at[suspects]) == 1
    step.record_lost_worker(3, suspects, [5], sent=time.monotonic())
    assert len(step.lost_at[suspects]) == 2
    with pytest.raises(MicrobatchFailed, match="3 workers exited or froze"):
        step.record_lost_worker(4, suspects, [5], sent=time.monotonic())


# --- frozen, stuck, slow


@pytest.mark.parametrize("remote", [(), (1,)], ids=["this machine", "another machine"])
def test_other_workers_compute_the_microbatches_of_a_frozen_worker_until_it_is_replaced(
    small_job: SmallJob,
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    remote: tuple[int, ...],
) -> None:
    monkeypatch.setattr(stragglers, "_MIN_HANG_S", 1.0)
    with running(small_job, 2, *remote) as reducer:
        before = reducer.pids
        steps_while_frozen = 0

        def count() -> None:
            nonlocal steps_while_frozen
            if reducer._step_id == 5:
                os.kill(before[1], signal.SIGSTOP)
            elif reducer.pids.get(1) == before[1]:
                steps_while_frozen += reducer._step_id > 5

        result = train(
            small_job,
            reducer,
            on_step=count,
            should_stop=stop_when(lambda: reducer.pids.get(1) not in (None, before[1])),
        )
        assert reducer.pids[0] == before[0]
    assert any("worker 1 has not answered for" in line for line in log.messages)
    # It was evicted after a second; steps were completed without it before.
    assert steps_while_frozen > 1
    assert_undisturbed(small_job, result)


class AcceptsStaleReplies(ProcessReducer):
    """The mutation: any reply counts as one to the current step."""

    def _on_reply(self, step: ReductionStep, worker: int, reply: Reply) -> None:
        super()._on_reply(step, worker, replace(reply, step_id=step.step_id))


def thaw_one(job: SmallJob, folder: Path, kind: type[ProcessReducer]) -> tuple[bytes, bytes]:
    """Return the sum of a step during which a reply to an earlier one comes, and the exact sum.

    Each step is another and has other weights, so that no old sum is right by chance.
    """
    armed = folder / "armed"
    row = int(job.workload.plans["train"].step(1, 0).row_indices(1)[0])
    freezing = job.with_source(FreezingSource, row, str(armed), name="train")
    launcher = ProcessLauncher(freezing.workload)
    with (
        InlineReducer(job.workload) as inline,
        kind(freezing.workload, Placement(2), launcher) as reducer,
    ):
        before = reducer.pids
        for number, epoch in enumerate((9, 1, 2, 3, 4)):
            if epoch == 1:
                armed.touch()
            elif epoch == 4:
                # It has not replied to the second step.
                (late,) = reducer._in_flight
                os.kill(before[late], signal.SIGCONT)
                wait_until_readable(reducer._group.workers[late].connection)
            task, W = Task("gradient", "train", epoch), job.W * np.float32(1 + number)
            total, exact = reducer.reduce(task, W).gradient, inline.reduce(task, W).gradient
            assert total is not None
            assert exact is not None
            found = total.tobytes(), exact.tobytes()
            if epoch < 4:
                assert found[0] == found[1]
        assert reducer.pids == before
        assert not armed.exists()
        return found


def wait_until_readable(connection: Connection) -> None:
    assert select.select([connection], [], [], 60)[0]


def test_a_worker_that_thaws_continues_and_its_stale_reply_is_dropped(
    small_job: SmallJob, log: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    total, exact = thaw_one(small_job, tmp_path, ProcessReducer)
    assert total == exact
    assert log.messages == []


def test_mutation_a_stale_reply_that_is_not_dropped_is_caught(
    small_job: SmallJob, tmp_path: Path
) -> None:
    total, exact = thaw_one(small_job, tmp_path, AcceptsStaleReplies)
    assert total != exact


def test_a_stuck_worker_is_replaced(
    small_job: SmallJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stragglers, "_UNMEASURED_HANG_S", 1.0)
    job = small_job.with_source(StuckSource, 100, str(tmp_path / "met"))
    with running(job, 2) as reducer:
        assert sum_bytes(reducer, job) == expected_sum(small_job)


def test_a_long_microbatch_gets_more_time_with_each_attempt(
    small_job: SmallJob, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer than a worker may before anything was measured."""
    monkeypatch.setattr(stragglers, "_UNMEASURED_HANG_S", 0.7)
    job = small_job.with_source(LongSource, 100, 2.5)
    with running(job, 1) as reducer:
        assert sum_bytes(reducer, job) == expected_sum(small_job)
    assert len([line for line in log.messages if "has not answered for" in line]) == 2


def test_the_driver_sleeps_while_late_work_is_computed_twice(
    small_job: SmallJob,
    log: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    marker = tmp_path / "met"
    job = small_job.with_source(StuckSource, 100, str(marker), 1.0)
    with running(job, 3) as reducer:
        # The second worker is late only after this time, too.
        reducer._stragglers.record(("gradient", "full", True, 1), 0.3, 1)
        timeouts = record_timeouts(reducer, monkeypatch)
        assert sum_bytes(reducer, job) == expected_sum(small_job)
    assert marker.exists()
    assert len(timeouts) < 50
    assert log.messages == []
