"""How the operating system is to treat a thread that waits for others who compute.

A thread that wakes up may take the core of one that is at work, even if a message that nobody needs
yet is what woke it: with as many workers as cores, the first to be done would so hold up the last.
"""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def batch_policy() -> Iterator[None]:
    """Let this thread wait, once woken, until a core is free or its turn comes; Linux only."""
    if not _set("SCHED_OTHER", "SCHED_BATCH"):
        yield
        return
    try:
        yield
    finally:
        _set("SCHED_BATCH", "SCHED_OTHER")


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
