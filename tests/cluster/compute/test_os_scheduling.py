"""The policy of a thread that waits, and that it is given back."""

import os
import threading

import pytest

from sumgrad.cluster.compute.os_scheduling import sched_batch, sched_other

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux has such policies")


def test_a_waiting_thread_is_a_batch_task_until_it_is_through() -> None:
    with sched_batch():
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
        with pytest.raises(ZeroDivisionError), sched_batch():
            _ = 1 // 0
        # The inner one changed nothing, so it gave nothing back.
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_where_it_is_not_allowed_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with sched_batch():
        assert os.sched_getscheduler(0) == os.SCHED_OTHER


def policy_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(os.sched_getscheduler(0)))
    thread.start()
    thread.join()
    return found[0]


def test_what_is_started_by_one_that_waits_need_not_be_a_batch_task() -> None:
    with sched_batch():
        assert policy_of_a_new_thread() == os.SCHED_BATCH
        with sched_other():
            assert policy_of_a_new_thread() == os.SCHED_OTHER
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    with sched_other():
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_policy_that_somebody_has_chosen_is_left_alone() -> None:
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        with sched_batch(), sched_other():
            assert os.sched_getscheduler(0) == os.SCHED_BATCH
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
