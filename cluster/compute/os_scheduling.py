"""The operating system's scheduling of a thread that waits for others to compute.

By default a thread that wakes up may preempt a thread that computes, even if the message that woke
it is not urgent. With as many workers as cores, the first worker to finish would delay the last.
"""

import contextlib
import os
import threading
from collections.abc import Iterator

_thread = threading.local()  #: Whether `sched_batch` has set this thread's policy.


@contextlib.contextmanager
def sched_batch() -> Iterator[None]:
    """Make this thread wait for a free core or its turn when it wakes up; Linux only."""
    if not _switch("SCHED_OTHER", "SCHED_BATCH"):
        yield
        return
    _thread.is_batch = True
    try:
        yield
    finally:
        _thread.is_batch = False
        _switch("SCHED_BATCH", "SCHED_OTHER")


@contextlib.contextmanager
def sched_other() -> Iterator[None]:
    """Suspend `sched_batch`, because new threads and processes inherit the policy."""
    is_batch = getattr(_thread, "is_batch", False) and _switch("SCHED_BATCH", "SCHED_OTHER")
    try:
        yield
    finally:
        if is_batch:
            _switch("SCHED_OTHER", "SCHED_BATCH")


def _switch(before: str, after: str) -> bool:
    """Change this thread's policy and return True, if the policy is the expected one."""
    try:
        if os.sched_getscheduler(0) != getattr(os, before):
            # The user has chosen another policy.
            return False
        os.sched_setscheduler(0, getattr(os, after), os.sched_param(0))
    except (AttributeError, OSError):
        # The system is not Linux, or a sandbox forbids the call.
        return False
    return True
