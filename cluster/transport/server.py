"""The driver's connections to its workers."""

import contextlib
import logging
import selectors
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue

import numpy as np

from sumgrad.cluster.compute.os_scheduling import sched_other
from sumgrad.cluster.errors import ConnectionClosed, ProtocolError
from sumgrad.cluster.transport import messages
from sumgrad.cluster.transport.connection import Connection
from sumgrad.cluster.transport.listener import Listener
from sumgrad.cluster.transport.messages import Hello, Message
from sumgrad.cluster.transport.selectable_queue import SelectableQueue
from sumgrad.cluster.transport.shared_memory import attach_received
from sumgrad.model.validation import Array

_logger = logging.getLogger(__name__)

_JOIN_TIMEOUT_S = 1.0  #: Seconds to wait for a thread whose connection was shut down.

Reply = messages.Sums | messages.Failed
Event = tuple[int, Reply | None]  #: A worker's index and its reply, or None if it has disconnected.


class WorkerConnection:
    """A connected worker, which has introduced itself.

    Two threads exchange messages with a worker on another machine, so that the arrays of several
    machines travel at the same time and none of them blocks the driver. `size` and `dtype` are a
    gradient vector's.
    """

    def __init__(self, connection: Connection, hello: Hello, size: int, dtype: str) -> None:
        self.index, self.pid, self.threads = hello.worker, hello.pid, hello.threads
        self.connection = connection
        self.is_local = connection.is_local
        self._size, self._dtype = size, dtype
        self._buffers: dict[int, Array] = {}  #: Its gradient vectors, by its own indices.
        self._outbox: SimpleQueue[tuple[Message, Sequence[Array]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def handle(self, message: Message) -> Reply | None:
        """Return the reply that a message contains, or map the vector that it announces.

        A message of another kind raises `ProtocolError`.
        """
        if isinstance(message, messages.Done):
            return message.decode(self._buffers)
        if isinstance(message, messages.AttachBuffer):
            vector = attach_received(self.connection, (self._size,), self._dtype)
            self._buffers[message.buffer] = vector
            return None
        return messages.check_type(messages.Failed, message)

    def _receive_gradients(self, message: Message) -> None:
        """Receive the gradients that follow a message from another machine."""
        indices: list[int] = []
        if isinstance(message, messages.Done):
            indices = [buffer for *_, buffer in message.nodes if buffer is not None]
        for index in indices:
            if index not in self._buffers:
                self._buffers[index] = np.empty(self._size, self._dtype)
        self.connection.receive_arrays([self._buffers[index] for index in indices])

    def start_threads(
        self, received: "SelectableQueue[tuple[WorkerConnection, Reply | None]]"
    ) -> None:
        """Start the two threads, which put replies into `received`, and None at the end."""

        def receive() -> None:
            try:
                while True:
                    message = self.connection.receive()
                    self._receive_gradients(message)
                    received.put((self, self.handle(message)))
            except ConnectionClosed:
                pass
            except ProtocolError as error:
                _log_violation(self, error)
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
    """A server that accepts workers and multiplexes their messages; `host` is as for `Listener`.

    `accept` returns whether to accept a worker, given its first message, and replies to it if so.
    `size` and `dtype` are a gradient vector's.
    """

    def __init__(
        self, host: str | None, accept: Callable[[Connection, Hello], bool], size: int, dtype: str
    ) -> None:
        self.workers: dict[int, WorkerConnection] = {}  #: The connected workers, by their indices.
        self._accept = accept
        self._size, self._dtype = size, dtype
        self._listener = Listener(host)
        self.address, self.secret = self._listener.address, self._listener.secret
        self._received: SelectableQueue[tuple[WorkerConnection, Reply | None]] = SelectableQueue()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener.accepted, selectors.EVENT_READ)
        self._selector.register(self._received, selectors.EVENT_READ)

    def events(self, timeout: float | None) -> Iterator[Event]:
        """Yield the replies and disconnects of workers within `timeout` seconds."""
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._listener.accepted:
                for connection in self._listener.accepted.drain():
                    self._selector.register(connection, selectors.EVENT_READ)
            elif key.fileobj is self._received:
                for worker, reply in self._received.drain():
                    # A worker may be disconnected while its replies are in the queue.
                    if self.workers.get(worker.index) is worker:
                        if reply is None:
                            self.disconnect(worker.index)
                        yield worker.index, reply
            else:
                assert isinstance(key.fileobj, Connection)  # noqa: S101 - nothing else is registered
                yield from self._on_readable(key.fileobj, key.data)

    def _on_readable(
        self, connection: Connection, worker: WorkerConnection | None
    ) -> Iterator[Event]:
        if connection.fileno() < 0:
            # Closed while another event of the same call was handled.
            return
        try:
            for message in connection.receive_available():
                if worker is None:
                    worker = self._add_worker(connection, messages.check_type(Hello, message))
                    if worker is None or not worker.is_local:
                        # It was closed, or its threads read from it from now on.
                        return
                elif (reply := worker.handle(message)) is not None:
                    yield worker.index, reply
                    if connection.fileno() < 0:
                        # The caller has disconnected it.
                        return
        except (ConnectionClosed, ProtocolError) as error:
            if isinstance(error, ProtocolError):
                _log_violation(worker, error)
            if worker is None:
                self._close(connection)
            else:
                self.disconnect(worker.index)
                yield worker.index, None

    def _add_worker(self, connection: Connection, hello: Hello) -> WorkerConnection | None:
        """Add a worker and return it, or close its connection if it is not accepted."""
        if not self._accept(connection, hello):
            self._close(connection)
            return None
        worker = WorkerConnection(connection, hello, self._size, self._dtype)
        self.workers[worker.index] = worker
        if worker.is_local:
            self._selector.modify(connection, selectors.EVENT_READ, worker)
        else:
            self._selector.unregister(connection)
            worker.start_threads(self._received)
        return worker

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


def _log_violation(worker: WorkerConnection | None, error: ProtocolError) -> None:
    peer = "a new worker" if worker is None else f"worker {worker.index}"
    _logger.info("%s violated the protocol (%s); its connection is closed", peer, error)
