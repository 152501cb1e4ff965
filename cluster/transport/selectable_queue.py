"""A queue that a selector can wait for."""

import contextlib
import socket
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class SelectableQueue(Generic[T]):
    """A thread-safe queue whose descriptor is readable while items are in it."""

    def __init__(self) -> None:
        self._items: SimpleQueue[T] = SimpleQueue()
        self._reader, self._writer = socket.socketpair()

    def fileno(self) -> int:
        """Return the descriptor, for selectors."""
        return self._reader.fileno()

    def put(self, item: T) -> None:
        """Add an item and wake the selector."""
        self._items.put(item)
        self._wake()

    def drain(self) -> Iterator[T]:
        """Yield the items, without blocking; those that are not consumed stay in the queue."""
        with contextlib.suppress(OSError):
            self._reader.recv(1 << 10, socket.MSG_DONTWAIT)
        try:
            with contextlib.suppress(Empty):
                while True:
                    yield self._items.get_nowait()
        finally:
            if not self._items.empty():
                self._wake()

    def _wake(self) -> None:
        # Where the socket's buffer is full, it is readable already.
        with contextlib.suppress(OSError):
            self._writer.send(b"!", socket.MSG_DONTWAIT)

    def close(self) -> None:
        """Close the descriptors."""
        self._reader.close()
        self._writer.close()
