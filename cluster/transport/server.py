"""The driver's connections to its workers."""

import contextlib
import logging
import selectors
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue

from sumgrad.cluster.compute.os_scheduling import sched_other
from sumgrad.cluster.errors import ConnectionClosed, ProtocolError
from sumgrad.cluster.transport.connection import Connection
from sumgrad.cluster.transport.listener import Listener
from sumgrad.cluster.transport.messages import (
    AttachBuffer,
    Done,
    Failed,
    Hello,
    Message,
    check_type,
)
from sumgrad.cluster.transport.selectable_queue import SelectableQueue
from sumgrad.model.validation import Array

_logger = logging.getLogger(__name__)

_JOIN_TIMEOUT_S = 1.0  #: Seconds to wait for a thread whose connection was shut down.

#: A worker's index and its message, or None if it has disconnected.
Event = tuple[int, Message | None]


class WorkerConnection:
    """A connected worker, which has introduced itself.

    Two threads exchange messages with a worker on another machine, so that the arrays of several
    machines travel at the same time and none of them blocks the driver.
    """

    def __init__(self, connection: Connection, hello: Hello) -> None:
        self.index, self.pid, self.threads = hello.worker, hello.pid, hello.threads
        self.connection = connection
        self.is_local = connection.is_local
        #: The gradient vectors that it sends or shares, by its own indices.
        self.buffers: dict[int, Array] = {}
        self._outbox: SimpleQueue[tuple[Message, Sequence[Array]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def start_threads(
        self,
        received: "SelectableQueue[tuple[WorkerConnection, Message | None]]",
        allocate: "Callable[[WorkerConnection, Message], list[Array]]",
    ) -> None:
        """Start the two threads, which put messages into `received`, and None at the end."""

        def receive() -> None:
            try:
                while True:
                    message = _check_sender(self.connection.receive())
                    self.connection.receive_arrays(allocate(self, message))
                    received.put((self, message))
            except ConnectionClosed:
                pass
            except ProtocolError as error:
                _log_violation(self.index, error)
            finally:
                # After any error, or the driver would wait for a worker that is not read any more.
                received.put((self, None))

        def send() -> None:
            with contextlib.suppress(ConnectionClosed):
                while (item := self._outbox.get()) is not None:
                    self.connection.send(item[0], arrays=item[1])

        with sched_other():
            for target in (receive, send):
                thread = threading.Thread(target=target, name=f"worker-{self.index}", daemon=True)
                thread.start()
                self._threads.append(thread)

    def send(self, message: Message, arrays: Sequence[Array] = ()) -> None:
        """Send a message; a worker that has disconnected is reported by `WorkerServer.events`."""
        if not self.is_local:
            self._outbox.put((message, arrays))
            return
        with contextlib.suppress(ConnectionClosed):
            self.connection.send(message, arrays=arrays)

    def close(self) -> None:
        """Close the connection and end the threads."""
        self._outbox.put(None)
        self.connection.shut_down()
        for thread in self._threads:
            # A thread must not use the descriptor once its number may belong to another file.
            thread.join(_JOIN_TIMEOUT_S)
        self.connection.close()


class WorkerServer:
    """A server that accepts workers and multiplexes their messages.

    Args:
        host: As for `Listener`.
        admit: Returns whether to accept a worker, given its first message; replies to it if so.
        allocate: Returns the arrays for those that follow a message from another machine.
    """

    def __init__(
        self,
        host: str | None,
        admit: Callable[[Connection, Hello], bool],
        allocate: Callable[[WorkerConnection, Message], list[Array]],
    ) -> None:
        #: The connected workers, by their indices.
        self.workers: dict[int, WorkerConnection] = {}
        self._admit = admit
        self._allocate = allocate
        self._listener = Listener(host)
        self.address, self.secret = self._listener.address, self._listener.secret
        self._received: SelectableQueue[tuple[WorkerConnection, Message | None]] = SelectableQueue()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener.accepted, selectors.EVENT_READ)
        self._selector.register(self._received, selectors.EVENT_READ)

    def events(self, timeout: float | None) -> Iterator[Event]:
        """Yield the messages and disconnects of workers within `timeout` seconds."""
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._listener.accepted:
                for connection in self._listener.accepted.drain():
                    self._selector.register(connection, selectors.EVENT_READ)
            elif key.fileobj is self._received:
                for worker, message in self._received.drain():
                    # A worker may be disconnected while its messages are in the queue.
                    if self.workers.get(worker.index) is worker:
                        yield from self._on_remote(worker.index, message)
            else:
                assert isinstance(key.fileobj, Connection)  # noqa: S101 - nothing else is registered
                yield from self._on_readable(key.fileobj, key.data)

    def _on_readable(self, connection: Connection, index: int | None) -> Iterator[Event]:
        if connection.fileno() < 0:
            # Closed while another event of the same call was handled.
            return
        try:
            for message in connection.receive_available():
                if index is None:
                    index = self._add_worker(connection, check_type(Hello, message))
                    if index is None or not connection.is_local:
                        # It was closed, or its threads read from it from now on.
                        return
                else:
                    yield index, _check_sender(message)
                    if connection.fileno() < 0:
                        # The caller has disconnected it.
                        return
        except (ConnectionClosed, ProtocolError) as error:
            if isinstance(error, ProtocolError):
                _log_violation(index, error)
            self._close(connection)
            if index is not None:
                del self.workers[index]
                yield index, None

    def _add_worker(self, connection: Connection, hello: Hello) -> int | None:
        """Add a worker and return its index, or close its connection if it is not admitted."""
        if not self._admit(connection, hello):
            self._close(connection)
            return None
        worker = self.workers[hello.worker] = WorkerConnection(connection, hello)
        if connection.is_local:
            self._selector.modify(connection, selectors.EVENT_READ, hello.worker)
        else:
            self._selector.unregister(connection)
            worker.start_threads(self._received, self._allocate)
        return hello.worker

    def _on_remote(self, index: int, message: Message | None) -> Iterator[Event]:
        if message is None:
            self.disconnect(index)
        yield index, message

    def disconnect(self, index: int) -> None:
        """Close a worker's connection; its later messages are dropped."""
        worker = self.workers.pop(index)
        if worker.is_local:
            self._selector.unregister(worker.connection)
        worker.close()

    def _close(self, connection: Connection) -> None:
        self._selector.unregister(connection)
        connection.close()

    def close(self) -> None:
        """Close the listener and all connections."""
        self._listener.close()
        for index in list(self.workers):
            self.disconnect(index)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, Connection):
                self._close(key.fileobj)
        self._selector.close()
        self._received.close()


def _check_sender(message: Message) -> Message:
    """Return a message that a connected worker may send; another raises `ProtocolError`."""
    if isinstance(message, AttachBuffer | Done | Failed):
        return message
    raise ProtocolError(f"a connected worker sent {type(message).__name__}")


def _log_violation(index: int | None, error: ProtocolError) -> None:
    peer = "a new worker" if index is None else f"worker {index}"
    _logger.info("%s violated the protocol (%s); its connection is closed", peer, error)
