"""Work that goes on beside other work, in a thread of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def run_in_thread(name: str, work: Callable[[], T]) -> "Future[T]":
    """Start ``work`` in a thread.

    Args:
        name: The thread's name.
        work: What to do.

    Returns:
        A future; its ``result()`` raises what ``work`` raised.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks for the result
            future.set_exception(error)

    # A daemon, and no executor: the threads of those are waited for when the interpreter ends.
    threading.Thread(target=run, name=name, daemon=True).start()
    return future
