"""Connections are accepted and checked beside the work, so that no stranger can hold it up."""

import contextlib
import secrets
import socket
import sys
import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue

from cluster.channel import Address, Channel, admit, local_listener, remote_listener
from cluster.errors import Intruder

#: So many may be proving themselves at a time; whoever comes on top of them is turned away.
_MOST_AT_THE_DOOR = 64


class Doorkeeper:
    """Listens, and lets in who knows the job's secret.

    Args:
        host: This machine's address for others; None to listen to this machine's processes only.

    Attributes:
        address: Where to connect to.
        secret: What to know.
    """

    def __init__(self, host: str | None = None) -> None:
        self.secret = secrets.token_bytes(32)
        self._listeners: list[socket.socket] = []
        local, remote = None, None
        if sys.platform == "linux":
            listener, local = local_listener()
            self._listeners.append(listener)
        elif host is None:
            host = "127.0.0.1"
        if host is not None:
            listener, remote = remote_listener(host)
            self._listeners.append(listener)
        self.address = Address(local, remote)
        self._bell, self._button = socket.socketpair()
        self._admitted: SimpleQueue[Channel] = SimpleQueue()
        #: Nobody is let in once it is closed, which `close` alone decides.
        self._lock = threading.Lock()
        self._closed = False
        self._at_the_door = threading.Semaphore(_MOST_AT_THE_DOOR)
        for listener in self._listeners:
            threading.Thread(target=self._listen, args=[listener], daemon=True).start()

    def fileno(self) -> int:
        """Readable when somebody was let in, for selectors."""
        return self._bell.fileno()

    def admitted(self) -> list[Channel]:
        """Who was let in since the last call."""
        with contextlib.suppress(BlockingIOError):
            self._bell.recv(1 << 10, socket.MSG_DONTWAIT)
        channels = []
        with contextlib.suppress(Empty):
            while True:
                channels.append(self._admitted.get_nowait())
        return channels

    def _listen(self, listener: socket.socket) -> None:
        while True:
            try:
                connected, _ = listener.accept()
            except OSError:
                return
            if not self._at_the_door.acquire(blocking=False):
                connected.close()
                continue
            threading.Thread(target=self._admit, args=[connected], daemon=True).start()

    def _admit(self, connected: socket.socket) -> None:
        with contextlib.suppress(Intruder), _released(self._at_the_door):
            channel = admit(connected, self.secret)
            with self._lock:
                if self._closed:
                    channel.close()
                    return
                self._admitted.put(channel)
                self._button.send(b"!")

    def close(self) -> None:
        """Listen no more."""
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                # Closing alone would not wake the thread that waits for a connection.
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            self._closed = True
            for channel in self.admitted():
                channel.close()
            self._bell.close()
            self._button.close()


@contextlib.contextmanager
def _released(semaphore: threading.Semaphore) -> Iterator[None]:
    """Give back at the end what was acquired before."""
    try:
        yield
    finally:
        semaphore.release()
