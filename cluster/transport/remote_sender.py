"""Long messages to and from another machine, carried by threads of their own.

Several machines' numbers travel at the same time, and none of them can hold up the driver.
"""

import contextlib
import socket
import threading
from collections.abc import Callable
from queue import SimpleQueue

from sumgrad.cluster.errors import ConnectionClosed, ProtocolError
from sumgrad.cluster.transport.connection import Connection
from sumgrad.cluster.transport.messages import Message
from sumgrad.model.validation import Array


class RemoteInbox:
    """What couriers bring; readable, for selectors, when there is something."""

    def __init__(self) -> None:
        self._brought: SimpleQueue[tuple[RemoteSender, Message | None]] = SimpleQueue()
        self._bell, self._button = socket.socketpair()

    def fileno(self) -> int:
        """For selectors."""
        return self._bell.fileno()

    def put(self, courier: "RemoteSender", message: Message | None) -> None:
        """A message that a courier brings; None where there will be no more."""
        self._brought.put((courier, message))
        with contextlib.suppress(OSError):
            self._button.send(b"!")

    def take(self) -> tuple["RemoteSender", Message | None]:
        """The next message, of which there is one."""
        self._bell.recv(1)
        return self._brought.get()

    def close(self) -> None:
        """Nothing is read any more."""
        self._bell.close()
        self._button.close()


class RemoteSender:
    """Carries messages over one channel, in both directions at once.

    Args:
        worker: Who is at the other end.
        channel: Is the courier's alone from here on.
        inbox: Where to bring what comes.
        room: Where the numbers of a message go, if it has any.

    Attributes:
        worker: See above.
    """

    def __init__(
        self,
        worker: int,
        channel: Connection,
        inbox: RemoteInbox,
        room: Callable[[Message], list[Array]],
    ) -> None:
        self.worker = worker
        self._channel = channel
        self._inbox = inbox
        self._room = room
        self._outbox: SimpleQueue[tuple[Message, list[Array]] | None] = SimpleQueue()
        for work in (self._fetch, self._deliver):
            threading.Thread(target=work, name=f"courier-{worker}", daemon=True).start()

    def send(self, message: Message, numbers: list[Array]) -> None:
        """Take a message and its numbers along; whether it arrives is seen by what comes back."""
        self._outbox.put((message, numbers))

    def _deliver(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while (carried := self._outbox.get()) is not None:
                self._channel.send(carried[0], numbers=carried[1])

    def _fetch(self) -> None:
        try:
            with contextlib.suppress(ConnectionClosed, ProtocolError):
                while True:
                    message = self._channel.receive()
                    self._channel.receive_numbers(self._room(message))
                    self._inbox.put(self, message)
        finally:
            # Whatever it was, the driver must not wait for somebody who is not heard any more.
            self._inbox.put(self, None)

    def close(self) -> None:
        """End both ways."""
        self._outbox.put(None)
        self._channel.shut_down()
