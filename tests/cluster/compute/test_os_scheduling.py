"""A waiting thread's scheduling policy, and its restoration."""

import os
import threading

import pytest

from sumgrad.cluster.compute.os_scheduling import sched_batch, sched_other

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux has SCHED_BATCH")


def policy() -> int:
    return os.sched_getscheduler(0)


def policy_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(policy()))
    thread.start()
    thread.join()
    return found[0]


def test_a_thread_is_a_batch_task_until_the_block_ends() -> None:
    with sched_batch():
        assert policy() == os.SCHED_BATCH
        with pytest.raises(ZeroDivisionError), sched_batch():
            _ = 1 // 0
        # The inner block changed nothing, so it restored nothing.
        assert policy() == os.SCHED_BATCH
    assert policy() == os.SCHED_OTHER


def test_the_policy_is_restored_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), sched_batch(), sched_other():
        _ = 1 // 0
    assert policy() == os.SCHED_OTHER
    with sched_other():
        assert policy() == os.SCHED_OTHER


def test_nothing_changes_where_the_call_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with sched_batch():
        assert policy() == os.SCHED_OTHER


def test_a_new_thread_inherits_the_policy_unless_it_is_suspended() -> None:
    with sched_batch():
        assert policy_of_a_new_thread() == os.SCHED_BATCH
        with sched_other():
            assert policy_of_a_new_thread() == os.SCHED_OTHER
        assert policy() == os.SCHED_BATCH
    with sched_other():
        assert policy() == os.SCHED_OTHER


def test_a_policy_that_the_user_has_chosen_is_kept() -> None:
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        with sched_batch(), sched_other():
            assert policy() == os.SCHED_BATCH
        assert policy() == os.SCHED_BATCH
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
