"""WorkerServer are accepted and checked beside the work, so that no stranger can hold it up."""

import contextlib
import secrets
import socket
import sys
import threading
from queue import Empty, SimpleQueue

from sumgrad.cluster.errors import AuthenticationError, ClusterError
from sumgrad.cluster.transport.connection import (
    Address,
    Connection,
    accept,
    local_listener,
    remote_listener,
)

#: So many may be proving themselves at a time; for one more, whoever has taken longest has to go.
_MOST_AT_THE_DOOR = 64
#: After an error of the operating system it listens again after a pause, in seconds.
_PAUSE_S = 0.1


class Listener:
    """Listens, and lets in who knows the job's secret.

    Args:
        host: This machine's address for others; None to listen to this machine's processes only.

    Attributes:
        address: Where to connect to.
        secret: What to know.

    Raises:
        ClusterError: Nobody can listen at this address.
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
            try:
                listener, remote = remote_listener(host)
            except OSError as error:
                self._end_listeners()
                raise ClusterError(f"workers cannot be listened for at {host}: {error}") from error
            self._listeners.append(listener)
        self.address = Address(local, remote)
        self._bell, self._button = socket.socketpair()
        self._admitted: SimpleQueue[Connection] = SimpleQueue()
        #: Guards what follows, and that nobody is let in once it is closed.
        self._lock = threading.Lock()
        #: Set by `close` alone.
        self._closed = threading.Event()
        #: Who is proving itself, in the order in which they came; each thread removes its own.
        self._at_the_door: dict[socket.socket, None] = {}
        for listener in self._listeners:
            threading.Thread(target=self._listen, args=[listener], daemon=True).start()

    def fileno(self) -> int:
        """Readable when somebody was let in, for selectors."""
        return self._bell.fileno()

    def admitted(self) -> list[Connection]:
        """Who was let in since the last call."""
        with contextlib.suppress(BlockingIOError):
            self._bell.recv(1 << 10, socket.MSG_DONTWAIT)
        channels = []
        with contextlib.suppress(Empty):
            while True:
                channels.append(self._admitted.get_nowait())
        return channels

    def _listen(self, listener: socket.socket) -> None:
        while not self._closed.is_set():
            try:
                connected, _ = listener.accept()
            except OSError:
                # It is closed; or one connection was broken off, or there are too many files.
                self._closed.wait(_PAUSE_S)
            else:
                self._hear(connected)

    def _hear(self, connected: socket.socket) -> None:
        """Let a thread of its own find out who it is."""
        with self._lock:
            if len(self._at_the_door) >= _MOST_AT_THE_DOOR:
                oldest = next(iter(self._at_the_door))
                del self._at_the_door[oldest]
                with contextlib.suppress(OSError):
                    # Its thread, which waits for it, is told that it is closed.
                    oldest.shutdown(socket.SHUT_RDWR)
            self._at_the_door[connected] = None
        try:
            threading.Thread(target=self._admit, args=[connected], daemon=True).start()
        except RuntimeError:
            # There can be no more threads now.
            self._leave(connected)
            connected.close()

    def _leave(self, connected: socket.socket) -> None:
        with self._lock:
            self._at_the_door.pop(connected, None)

    def _admit(self, connected: socket.socket) -> None:
        try:
            channel = accept(connected, self.secret)
        except AuthenticationError:
            return
        finally:
            self._leave(connected)
        with self._lock:
            if self._closed.is_set():
                channel.close()
                return
            self._admitted.put(channel)
            self._button.send(b"!")

    def close(self) -> None:
        """Listen no more."""
        with self._lock:
            self._closed.set()
        self._end_listeners()
        for channel in self.admitted():
            channel.close()
        self._bell.close()
        self._button.close()

    def _end_listeners(self) -> None:
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                # Closing alone would not wake the thread that waits for a connection.
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
