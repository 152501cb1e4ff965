"""The policy of a thread that waits, and that it is given back."""

import os
import threading

import pytest

from sumgrad.cluster.compute.os_scheduling import batch_policy, ordinary_policy

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux has such policies")


def test_a_waiting_thread_is_a_batch_task_until_it_is_through() -> None:
    with batch_policy():
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
        with pytest.raises(ZeroDivisionError), batch_policy():
            _ = 1 // 0
        # The inner one changed nothing, so it gave nothing back.
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_where_it_is_not_allowed_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with batch_policy():
        assert os.sched_getscheduler(0) == os.SCHED_OTHER


def policy_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(os.sched_getscheduler(0)))
    thread.start()
    thread.join()
    return found[0]


def test_what_is_started_by_one_that_waits_need_not_be_a_batch_task() -> None:
    with batch_policy():
        assert policy_of_a_new_thread() == os.SCHED_BATCH
        with ordinary_policy():
            assert policy_of_a_new_thread() == os.SCHED_OTHER
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    with ordinary_policy():
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_policy_that_somebody_has_chosen_is_left_alone() -> None:
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        with batch_policy(), ordinary_policy():
            assert os.sched_getscheduler(0) == os.SCHED_BATCH
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
