"""Checks for processes that a test has started."""

from sumgrad.jobs.service.local.processes import start_time
from sumgrad.jobs.support.polling import wait_until


def is_alive(pid: int) -> bool:
    return start_time(pid) is not None


def wait_until_dead(pid: int) -> None:
    """Wait until a process has ended, even if its parent has not reaped it."""
    assert wait_until(lambda: not is_alive(pid), 10, interval=0.01)
