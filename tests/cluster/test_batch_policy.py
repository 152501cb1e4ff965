"""The policy of a thread that waits, and that it is given back."""

import os

import pytest

from cluster.batch_policy import batch_policy

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
