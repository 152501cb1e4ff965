"""A listener that accepts and authenticates connections in threads, so that no peer blocks it."""

import contextlib
import logging
import secrets
import socket
import sys
import threading

from sumgrad.cluster.errors import AuthenticationError, ClusterError, ConnectionClosed
from sumgrad.cluster.transport.connection import Connection
from sumgrad.cluster.transport.handshake import Address, authenticate
from sumgrad.cluster.transport.selectable_queue import SelectableQueue

_logger = logging.getLogger(__name__)

_BACKLOG = 128  #: Connections that the operating system holds until they are accepted.
_MAX_HANDSHAKES = 64  #: Peers that may authenticate at a time; one more disconnects the oldest.
_PAUSE_S = 0.1  #: Pause after an error of the operating system, in seconds.


class Listener:
    """A listening endpoint for peers that know the job's secret; local only without a host."""

    def __init__(self, host: str | None = None) -> None:
        self.secret = secrets.token_bytes(32)  #: What peers have to know.
        self._sockets: list[socket.socket] = []
        local, remote = None, None
        if sys.platform == "linux":
            # A name in the abstract namespace leaves no file behind. Every user of the machine can
            # connect to it, which is why peers authenticate.
            local = f"\0sumgrad-{secrets.token_hex(8)}"
            self._sockets.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            self._sockets[0].bind(local)
            self._sockets[0].listen(_BACKLOG)
        elif host is None:
            host = "127.0.0.1"
        if host is not None:
            try:
                self._sockets.append(socket.create_server((host, 0), backlog=_BACKLOG))
            except OSError as error:
                self._close_sockets()
                raise ClusterError(f"cannot listen for workers at {host}: {error}") from error
            remote = (host, self._sockets[-1].getsockname()[1])
        self.address = Address(local, remote)
        #: Authenticated connections, in the order in which they came.
        self.accepted: SelectableQueue[Connection] = SelectableQueue()
        #: Guards `_handshakes`, and keeps `close` from missing a connection.
        self._lock = threading.Lock()
        self._closed = threading.Event()  #: Set by `close` alone.
        #: Peers that are authenticating, oldest first; each one's thread removes it.
        self._handshakes: dict[socket.socket, None] = {}
        for listening in self._sockets:
            threading.Thread(target=self._listen, args=[listening], daemon=True).start()

    def _listen(self, listening: socket.socket) -> None:
        while not self._closed.is_set():
            try:
                connected, _ = listening.accept()
            except OSError:
                # The listener was closed, a peer broke off, or there are too many open files.
                self._closed.wait(_PAUSE_S)
            else:
                self._start_handshake(connected)

    def _start_handshake(self, connected: socket.socket) -> None:
        with self._lock:
            if len(self._handshakes) >= _MAX_HANDSHAKES:
                oldest = next(iter(self._handshakes))
                del self._handshakes[oldest]
                with contextlib.suppress(OSError):
                    # Wakes its thread, which blocks on it.
                    oldest.shutdown(socket.SHUT_RDWR)
            self._handshakes[connected] = None
        try:
            threading.Thread(target=self._authenticate, args=[connected], daemon=True).start()
        except RuntimeError:
            # The operating system refuses another thread.
            self._end_handshake(connected)
            connected.close()

    def _end_handshake(self, connected: socket.socket) -> None:
        with self._lock:
            self._handshakes.pop(connected, None)

    def _authenticate(self, connected: socket.socket) -> None:
        try:
            connection = authenticate(connected, self.secret, "driver")
        except AuthenticationError as error:
            _logger.info("%s", error)
            return
        except (ConnectionClosed, OSError):
            return
        finally:
            self._end_handshake(connected)
        with self._lock:
            if self._closed.is_set():
                connection.close()
            else:
                self.accepted.put(connection)

    def close(self) -> None:
        """Stop listening and close connections that were not taken from `accepted`."""
        with self._lock:
            self._closed.set()
        self._close_sockets()
        for connection in self.accepted.drain():
            connection.close()
        self.accepted.close()

    def _close_sockets(self) -> None:
        for listening in self._sockets:
            with contextlib.suppress(OSError):
                # Closing alone would not wake the thread that blocks in `accept`.
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()
