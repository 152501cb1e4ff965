"""Work in a thread gives its result, or raises its error where the result is asked for."""

import threading

import pytest

from sumgrad.jobs.support.threads import run_in_thread


def test_the_result_comes_from_another_thread() -> None:
    future = run_in_thread("worker", threading.get_ident)
    assert future.result(timeout=10) != threading.get_ident()


def test_an_error_is_raised_by_result() -> None:
    def fail() -> None:
        raise ValueError("broken")

    future = run_in_thread("worker", fail)
    with pytest.raises(ValueError, match="broken"):
        future.result(timeout=10)


def test_work_after_another_future_can_be_cancelled_until_it_begins() -> None:
    first, done = run_in_thread("first", (proceed := threading.Event()).wait), []
    cancelled = run_in_thread("cancelled", lambda: done.append("cancelled"), after=first)
    begun = run_in_thread("begun", lambda: done.append("begun"), after=first)
    assert cancelled.cancel()
    proceed.set()
    begun.result(timeout=10)
    assert not begun.cancel()
    assert done == ["begun"]


def test_the_process_does_not_wait_for_the_thread() -> None:
    forever = threading.Event()
    run_in_thread("stuck", forever.wait)
    (stuck,) = (thread for thread in threading.enumerate() if thread.name == "stuck")
    assert stuck.daemon
    forever.set()
