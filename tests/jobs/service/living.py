"""Whether processes that a test has started are still there."""

import time

from sumgrad.jobs.service.local.processes import start_of


def is_alive(pid: int) -> bool:
    return start_of(pid) is not None


def wait_until_dead(pid: int) -> None:
    """Wait until a process has ended, whoever has heard of it."""
    give_up = time.monotonic() + 10
    while is_alive(pid):
        assert time.monotonic() < give_up
        time.sleep(0.01)
