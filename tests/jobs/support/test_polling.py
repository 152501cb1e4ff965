"""Waiting for a condition."""

from sumgrad.jobs.support.polling import wait_until


def test_returns_the_first_true_value() -> None:
    values = iter([None, 0, "ready", "never read"])
    assert wait_until(lambda: next(values), timeout=60, interval=0) == "ready"


def test_checks_once_without_time_and_returns_a_false_value() -> None:
    calls: list[int] = []
    assert wait_until(lambda: calls.append(1), timeout=0) is None
    assert len(calls) == 1


def test_gives_up_after_the_timeout() -> None:
    assert wait_until(lambda: False, timeout=0.01, interval=0.001) is False
