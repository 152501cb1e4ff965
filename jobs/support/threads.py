"""Work in a background thread."""

import ctypes
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

T = TypeVar("T")


def run_in_thread(
    name: str, work: Callable[[], T], *, after: "Future[Any] | None" = None
) -> "Future[T]":
    """Call a function in a new daemon thread of this name; `Future.result` raises its error.

    It is called when the future `after` is done, and can be cancelled until then.
    """
    future: Future[T] = Future()

    def run() -> None:
        if after is not None:
            wait([after])
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again by result()
            future.set_exception(error)

    # Not an executor: the interpreter waits for an executor's threads at its exit.
    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def die_with_parent() -> None:
    """Have Linux kill this process when the thread that started it ends, even if it is frozen."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
