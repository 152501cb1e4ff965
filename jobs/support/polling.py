"""Waiting for a condition."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float, *, interval: float = 0.05) -> T:
    """Poll until a condition holds or the time is up.

    Args:
        condition: Called at least once; a true value ends the wait.
        timeout: Seconds.
        interval: Seconds between two calls.

    Returns:
        What the condition returned last: a false value after a timeout.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        left = deadline - time.monotonic()
        if left <= 0:
            break
        time.sleep(min(interval, left))
    return value
