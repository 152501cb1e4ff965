"""The driver's connections to its workers: who is let in, what they say, and when they are gone."""

import selectors
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sumgrad.cluster.compute.os_scheduling import sched_other
from sumgrad.cluster.errors import ConnectionClosed, ProtocolError
from sumgrad.cluster.transport.connection import Address, Connection
from sumgrad.cluster.transport.listener import Listener
from sumgrad.cluster.transport.messages import Hello, Message, expect
from sumgrad.cluster.transport.remote_sender import RemoteInbox, RemoteSender
from sumgrad.model.validation import Array


@dataclass
class WorkerConnection:
    """A worker that is connected."""

    channel: Connection
    pid: int
    #: Threads of it that compute.
    lanes: int = 1
    #: Of a worker on another machine.
    courier: RemoteSender | None = None
    vectors: dict[int, Array] = field(default_factory=dict)


def _expect_no_hello(message: Message) -> None:
    if isinstance(message, Hello):
        raise ProtocolError("a worker that is known said who it is again")


class WorkerServer:
    """See above.

    Args:
        host: This machine's address for workers on others; None if there are none.
        admit: Whether a worker is let in, which has said who it is; it tells it what it needs to
            know.
        room: Gives the places for the numbers of a message from another machine.

    Attributes:
        members: The workers that are connected, by their numbers.
    """

    def __init__(
        self,
        host: str | None,
        admit: Callable[[Connection, Hello], bool],
        room: Callable[[WorkerConnection, Message], list[Array]],
    ) -> None:
        self.members: dict[int, WorkerConnection] = {}
        self._admit = admit
        self._room = room
        self._door = Listener(host)
        self._inbox = RemoteInbox()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._door, selectors.EVENT_READ)
        self._selector.register(self._inbox, selectors.EVENT_READ)

    @property
    def address(self) -> Address:
        """Where workers connect to."""
        return self._door.address

    @property
    def secret(self) -> bytes:
        """What they have to know."""
        return self._door.secret

    def events(self, timeout: float | None) -> Iterator[tuple[int, Message | None]]:
        """What happens within this time: a worker and its message, or None where it is gone.

        The first message of each is its `Hello`, as soon as it is a member.
        """
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._door:
                for channel in self._door.admitted():
                    self._selector.register(channel, selectors.EVENT_READ)
            elif key.fileobj is self._inbox:
                yield from self._brought()
            else:
                assert isinstance(key.fileobj, Connection)  # noqa: S101 - nothing else is registered
                yield from self._heard(key.fileobj, key.data)

    def _heard(
        self, channel: Connection, worker: int | None
    ) -> Iterator[tuple[int, Message | None]]:
        if channel.fileno() < 0:
            # Closed by what was done about an event that came with this one.
            return
        try:
            for message in channel.pending():
                if worker is None:
                    hello = expect(Hello, message)
                    if not self._admit(channel, hello):
                        self._close(channel)
                        return
                    worker = hello.worker
                    self._join(channel, hello)
                else:
                    _expect_no_hello(message)
                yield worker, message
                if not channel.is_local:
                    # It is the courier's from here on.
                    return
        except (ConnectionClosed, ProtocolError):
            # Who says what no worker says is of no more use than who is gone.
            self._close(channel)
            if worker is not None:
                del self.members[worker]
                yield worker, None

    def _join(self, channel: Connection, hello: Hello) -> None:
        member = self.members[hello.worker] = WorkerConnection(channel, hello.pid, hello.lanes)
        if channel.is_local:
            self._selector.modify(channel, selectors.EVENT_READ, hello.worker)
            return
        self._selector.unregister(channel)
        with sched_other():
            member.courier = RemoteSender(
                hello.worker, channel, self._inbox, lambda message: self._room(member, message)
            )

    def _brought(self) -> Iterator[tuple[int, Message | None]]:
        """What a courier brought."""
        courier, message = self._inbox.take()
        worker = courier.worker
        member = self.members.get(worker)
        if member is None or member.courier is not courier:
            # Of a worker that was given up.
            return
        if message is None or isinstance(message, Hello):
            self.disconnect(worker)
            message = None
        yield worker, message

    def disconnect(self, worker: int) -> None:
        """End a member's connection; what it may still say is not heard."""
        member = self.members.pop(worker)
        if member.courier is None:
            self._close(member.channel)
            return
        member.courier.close()
        member.channel.close()

    def _close(self, channel: Connection) -> None:
        self._selector.unregister(channel)
        channel.close()

    def close(self) -> None:
        """End all of them."""
        self._door.close()
        for worker in list(self.members):
            self.disconnect(worker)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, Connection):
                self._close(key.fileobj)
        self._selector.close()
        self._inbox.close()
