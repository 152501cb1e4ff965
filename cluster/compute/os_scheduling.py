"""How the operating system is to treat a thread that waits for others who compute.

A thread that wakes up may take the core of one that is at work, even if a message that nobody needs
yet is what woke it: with as many workers as cores, the first to be done would so hold up the last.
"""

import contextlib
import os
import threading
from collections.abc import Iterator

#: Whether this thread's policy is of our making.
_ours = threading.local()


@contextlib.contextmanager
def sched_batch() -> Iterator[None]:
    """Let this thread wait, once woken, until a core is free or its turn comes; Linux only."""
    if not _set("SCHED_OTHER", "SCHED_BATCH"):
        yield
        return
    _ours.is_batch = True
    try:
        yield
    finally:
        _ours.is_batch = False
        _set("SCHED_BATCH", "SCHED_OTHER")


@contextlib.contextmanager
def sched_other() -> Iterator[None]:
    """Within `sched_batch`, suspend it: threads and processes inherit the policy of their maker.

    Those that are started in here are no batch tasks then, and stay none.
    """
    if not getattr(_ours, "is_batch", False) or not _set("SCHED_BATCH", "SCHED_OTHER"):
        yield
        return
    try:
        yield
    finally:
        _set("SCHED_OTHER", "SCHED_BATCH")


def _set(before: str, after: str) -> bool:
    """Change the policy of this thread from one to another; whether that was done."""
    try:
        if os.sched_getscheduler(0) != getattr(os, before):
            # Somebody has chosen another, and had a reason.
            return False
        os.sched_setscheduler(0, getattr(os, after), os.sched_param(0))
    except (AttributeError, OSError):
        # Not Linux, or a sandbox that does not allow it.
        return False
    return True
