"""A relay of TCP connections that can be cut, as a network may cut them."""

import socket
import threading
from contextlib import suppress

_LOOPBACK = "127.0.0.1"


class Relay:
    """Listens on loopback and forwards every byte.

    Args:
        behind: Port of the server behind it.

    Attributes:
        port: Port of the relay.
        connections: Number of connections so far.
    """

    def __init__(self, behind: int) -> None:
        self._behind = behind
        self._listener = socket.create_server((_LOOPBACK, 0))
        self.port = int(self._listener.getsockname()[1])
        self.connections = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset all open connections; new ones are accepted."""
        with self._lock:
            connections, self._open = self._open, set()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def close(self) -> None:
        """Reset all connections and stop listening."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((_LOOPBACK, self._behind))
                with self._lock:
                    self.connections += 1
                    self._open |= {near, far}
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
