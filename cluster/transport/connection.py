"""Messages between two processes over a socket, after both have proved to know the job's secret.

A frame is the length of a message, that of the numbers that follow it, both little-endian, then the
message and the numbers. On one machine there are none: descriptors of shared memory travel beside
the message instead. Whoever connects and does not know the secret is turned away before anything
that it sent has been looked at. WorkerServer between machines are authenticated when they are made;
what travels over them is not encrypted.
"""

import array
import contextlib
import hmac
import os
import secrets
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sumgrad.cluster.errors import AuthenticationError, ConnectionClosed, ProtocolError
from sumgrad.cluster.transport.messages import Message, decode, encode
from sumgrad.model.validation import Array

#: Longest message, in bytes; a frame that promises more is not one of ours.
LONGEST = 1 << 24
#: How long a stranger may take to authenticate that it is none, all in all, in seconds.
HANDSHAKE_S = 5.0
_LENGTHS = struct.Struct("<IQ")
#: After so long a silence a machine is asked whether it is there, and given up if it is not: in
#: seconds, but the last in milliseconds.
_VANISHED = {
    getattr(socket, name): value
    for name, value in {
        "TCP_KEEPIDLE": 5,
        "TCP_KEEPINTVL": 5,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 20_000,
    }.items()
    if hasattr(socket, name)
}
_NONCE_BYTES = 32
_PROOF_BYTES = 32
_MOST_DESCRIPTORS = 16


class Connection:
    """Messages in both directions over one connected socket.

    Args:
        connected: A stream socket whose other end is known; it is closed with the channel.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        #: Whether descriptors can be sent: both ends are on one machine.
        self.is_local = connected.family == socket.AF_UNIX
        self._buffer = bytearray()
        self._descriptors: deque[int] = deque()
        #: Bytes of numbers that follow the message read last, and have not been read yet.
        self._following = 0

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def send(
        self,
        message: Message,
        descriptors: Sequence[int] = (),
        numbers: Sequence[Array] = (),
    ) -> None:
        """Send a message, and descriptors or numbers that go with it.

        Raises:
            ConnectionClosed: The other end is gone.
        """
        data = encode(message)
        frame = _LENGTHS.pack(len(data), sum(vector.nbytes for vector in numbers)) + data
        try:
            if descriptors:
                sent = socket.send_fds(self._socket, [frame], list(descriptors))
                frame = frame[sent:]
            self._socket.sendall(frame)
            for vector in numbers:
                self._socket.sendall(vector.data.cast("B"))
        except OSError as error:
            raise ConnectionClosed(str(error)) from None

    def receive(self, look_s: float = 0.0) -> Message:
        """The next message; waits for it.

        Args:
            look_s: So many seconds it looks for the message again and again before it sleeps, and
                lets whoever needs the core have it in between.

        Raises:
            ConnectionClosed: The other end is gone.
            ProtocolError: What came is no message.
        """
        until = time.perf_counter() + look_s if look_s else 0.0
        while True:
            message = self._next()
            if message is not None:
                return message
            if look_s and time.perf_counter() < until:
                try:
                    self._read(socket.MSG_DONTWAIT)
                except BlockingIOError:
                    os.sched_yield()
            else:
                self._read(0)

    def pending(self) -> Iterator[Message]:
        """The messages that are here; waits for none.

        Numbers that follow a message are to be received before the next message is asked for.

        Raises:
            ConnectionClosed: The other end is gone, and no message is left.
            ProtocolError: What came is no message.
        """
        closed: ConnectionClosed | None = None
        try:
            self._read(socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        except ConnectionClosed as error:
            closed = error
        while (message := self._next()) is not None:
            closed = None
            yield message
        if closed is not None:
            raise closed

    def receive_numbers(self, arrays: Sequence[Array]) -> None:
        """Receive the numbers that follow the last message into these arrays, one after the other.

        Raises:
            ConnectionClosed: The other end is gone.
            ProtocolError: They are not as many as the arrays hold.
        """
        if sum(target.nbytes for target in arrays) != self._following:
            raise ProtocolError(f"a message with {self._following:,} bytes of numbers")
        self._following = 0
        for target in arrays:
            room = target.data.cast("B")
            here = min(len(room), len(self._buffer))
            room[:here] = self._buffer[:here]
            del self._buffer[:here]
            while here < len(room):
                try:
                    count = self._socket.recv_into(room[here:])
                except OSError as error:
                    raise ConnectionClosed(str(error)) from None
                if not count:
                    raise ConnectionClosed("the other end was closed")
                here += count

    def descriptor(self) -> int:
        """The next descriptor that came along; the caller closes it.

        Raises:
            ProtocolError: None did.
        """
        if not self._descriptors:
            raise ProtocolError("a message came without the descriptor that it speaks of")
        return self._descriptors.popleft()

    def _read(self, flags: int) -> None:
        room = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)
        try:
            data, ancillary, _, _ = self._socket.recvmsg(1 << 16, room, flags)
        except BlockingIOError:
            raise
        except OSError as error:
            raise ConnectionClosed(str(error)) from None
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received = array.array("i")
                received.frombytes(content[: len(content) - len(content) % received.itemsize])
                self._descriptors.extend(received)
        if not data:
            raise ConnectionClosed("the other end was closed")
        self._buffer += data

    def _next(self) -> Message | None:
        """The next message of the buffer, if all of it is there."""
        if self._following:
            raise ProtocolError("numbers that nobody asked for")
        if len(self._buffer) < _LENGTHS.size:
            return None
        length, following = _LENGTHS.unpack_from(self._buffer)
        if length > LONGEST:
            raise ProtocolError(f"a message of {length:,} bytes")
        end = _LENGTHS.size + length
        if len(self._buffer) < end:
            return None
        data = bytes(self._buffer[_LENGTHS.size : end])
        del self._buffer[:end]
        self._following = following
        return decode(data)

    def shut_down(self) -> None:
        """End both directions; whoever waits, here or there, is told that it is closed."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end, and descriptors that nobody has claimed."""
        self._socket.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())


@dataclass(frozen=True)
class Address:
    """Where the driver listens.

    Attributes:
        local: A name for processes of the driver's machine; None where there is none.
        remote: Host and port for others; None where there are none.
    """

    local: str | None = None
    remote: tuple[str, int] | None = None


def local_listener() -> tuple[socket.socket, str]:
    """A socket for processes of this machine, and its name; it leaves nothing behind.

    The name is in Linux's abstract namespace, which has no files. Anybody on the machine may
    connect to it, and is turned away without the secret.
    """
    name = f"\0sumgrad-{secrets.token_hex(8)}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(name)
    listener.listen(128)
    return listener, name


def remote_listener(host: str) -> tuple[socket.socket, tuple[str, int]]:
    """A socket for processes of other machines, and its address."""
    listener = socket.create_server((host, 0), backlog=128)
    return listener, (host, listener.getsockname()[1])


def connect(address: Address, secret: bytes) -> Connection:
    """Connect to the driver, and authenticate to each other to know the secret.

    Raises:
        AuthenticationError: The other end does not know it.
        ConnectionClosed: Nobody is there, or we were turned away.
    """
    connected = _reach(address)
    try:
        authenticate(connected, secret, "worker")
        return _channel(connected)
    except OSError as error:
        connected.close()
        raise ConnectionClosed(str(error)) from None
    except BaseException:
        connected.close()
        raise


def _reach(address: Address) -> socket.socket:
    """A connection by the local name, whose success shows that the machine is the same."""
    if address.local is not None:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connected.connect(address.local)
        except OSError as error:
            connected.close()
            if address.remote is None:
                raise ConnectionClosed(f"the driver does not answer: {error}") from None
        else:
            return connected
    if address.remote is None:
        raise ConnectionClosed("the driver listens nowhere")
    try:
        return socket.create_connection(address.remote, timeout=HANDSHAKE_S)
    except OSError as error:
        host, port = address.remote
        raise ConnectionClosed(f"the driver does not answer at {host}:{port}: {error}") from None


def _channel(connected: socket.socket) -> Connection:
    """A channel over a connection whose other end has proved itself."""
    connected.settimeout(None)
    if connected.family != socket.AF_UNIX:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A machine that vanishes says no goodbye.
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _VANISHED.items():
            connected.setsockopt(socket.IPPROTO_TCP, option, value)
    return Connection(connected)


def accept(connected: socket.socket, secret: bytes) -> Connection:
    """A channel to whoever connected, once it has proved to know the secret.

    Raises:
        AuthenticationError: It does not know it, or took too long.
    """
    try:
        authenticate(connected, secret, "driver")
        return _channel(connected)
    except OSError as error:
        connected.close()
        raise AuthenticationError(f"a connection was turned away: {error}") from None
    except BaseException:
        connected.close()
        raise


def authenticate(connected: socket.socket, secret: bytes, role: str) -> None:
    """Both ends show that they know the secret, without sending it.

    Each sends a random number, and then the HMAC of its role and both numbers; so no answer can be
    used again, nor sent back to whom it came from.

    Raises:
        AuthenticationError: The other end does not know the secret.
        OSError: It is gone, or took too long.
    """
    until = time.monotonic() + HANDSHAKE_S
    connected.settimeout(HANDSHAKE_S)
    peer = {"driver": "worker", "worker": "driver"}[role]
    ours = secrets.token_bytes(_NONCE_BYTES)
    connected.sendall(ours)
    theirs = _exactly(connected, _NONCE_BYTES, until)
    numbers = {role: ours, peer: theirs}
    both = numbers["driver"] + numbers["worker"]
    connected.sendall(_proof(secret, role, both))
    proof = _exactly(connected, _PROOF_BYTES, until)
    if not hmac.compare_digest(proof, _proof(secret, peer, both)):
        raise AuthenticationError("a connection was turned away: it does not know the job's secret")


def _proof(secret: bytes, role: str, numbers: bytes) -> bytes:
    return hmac.digest(secret, role.encode() + numbers, "sha256")


def _exactly(connected: socket.socket, count: int, until: float) -> bytes:
    data = b""
    while len(data) < count:
        # The deadline holds for all of it: else a byte now and then would be enough to stay.
        connected.settimeout(max(1e-3, until - time.monotonic()))
        more = connected.recv(count - len(data))
        if not more:
            raise AuthenticationError(
                "a connection was turned away: it closed before it proved anything"
            )
        data += more
    return data
