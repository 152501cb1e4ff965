"""Messages between two processes over a socket, after both have proved to know the job's secret.

A frame is the length of a message, four bytes little-endian, and the message. Descriptors of shared
memory travel beside it. Whoever connects and does not know the secret is turned away before
anything that it sent has been looked at.
"""

import array
import hmac
import secrets
import socket
import struct
from collections import deque
from collections.abc import Sequence

from cluster.errors import ChannelClosed, Intruder, ProtocolError
from cluster.messages import Message, decode, encode

#: Longest message, in bytes; a frame that promises more is not one of ours.
LONGEST = 1 << 24
#: How long a stranger may take to prove that it is none, in seconds.
HANDSHAKE_S = 5.0
_LENGTH = struct.Struct("<I")
_NONCE_BYTES = 32
_PROOF_BYTES = 32
_MOST_DESCRIPTORS = 16


class Channel:
    """Messages in both directions over one connected socket.

    Args:
        connected: A stream socket whose other end is known; it is closed with the channel.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._buffer = bytearray()
        self._descriptors: deque[int] = deque()

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message, and descriptors that go with it.

        Raises:
            ChannelClosed: The other end is gone.
        """
        data = encode(message)
        frame = _LENGTH.pack(len(data)) + data
        try:
            if descriptors:
                sent = socket.send_fds(self._socket, [frame], list(descriptors))
                frame = frame[sent:]
            self._socket.sendall(frame)
        except OSError as error:
            raise ChannelClosed(str(error)) from None

    def receive(self) -> Message:
        """The next message; waits for it.

        Raises:
            ChannelClosed: The other end is gone.
            ProtocolError: What came is no message.
        """
        while True:
            message = self._next()
            if message is not None:
                return message
            self._read(0)

    def pending(self) -> list[Message]:
        """The messages that are here; waits for none.

        Raises:
            ChannelClosed: The other end is gone, and no message is left.
            ProtocolError: What came is no message.
        """
        closed: ChannelClosed | None = None
        try:
            self._read(socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        except ChannelClosed as error:
            closed = error
        messages: list[Message] = []
        while (message := self._next()) is not None:
            messages.append(message)
        if closed is not None and not messages:
            raise closed
        return messages

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
            raise ChannelClosed(str(error)) from None
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received = array.array("i")
                received.frombytes(content[: len(content) - len(content) % received.itemsize])
                self._descriptors.extend(received)
        if not data:
            raise ChannelClosed("the other end was closed")
        self._buffer += data

    def _next(self) -> Message | None:
        """The next message of the buffer, if all of it is there."""
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > LONGEST:
            raise ProtocolError(f"a message of {length:,} bytes")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        data = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return decode(data)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


def local_listener() -> tuple[socket.socket, str]:
    """A socket for processes of this machine, and its address; it leaves nothing behind.

    The name is in Linux's abstract namespace, which has no files. Anybody on the machine may
    connect to it, and is turned away without the secret.
    """
    address = f"\0sumgrad-{secrets.token_hex(8)}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen(128)
    return listener, address


def connect(address: str, secret: bytes) -> Channel:
    """Connect to a listener of this machine, and prove to each other to know the secret.

    Raises:
        Intruder: The other end does not know it.
        ChannelClosed: Nobody is there, or we were turned away.
    """
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.settimeout(HANDSHAKE_S)
        connected.connect(address)
        prove(connected, secret, "worker")
    except OSError as error:
        connected.close()
        raise ChannelClosed(str(error)) from None
    except BaseException:
        connected.close()
        raise
    connected.settimeout(None)
    return Channel(connected)


def admit(connected: socket.socket, secret: bytes) -> Channel:
    """A channel to whoever connected, once it has proved to know the secret.

    Raises:
        Intruder: It does not know it, or took too long.
    """
    try:
        connected.settimeout(HANDSHAKE_S)
        prove(connected, secret, "driver")
    except OSError as error:
        connected.close()
        raise Intruder(f"a connection was turned away: {error}") from None
    except BaseException:
        connected.close()
        raise
    connected.settimeout(None)
    return Channel(connected)


def prove(connected: socket.socket, secret: bytes, role: str) -> None:
    """Both ends show that they know the secret, without sending it.

    Each sends a random number, and then the HMAC of its role and both numbers; so no answer can be
    used again, nor sent back to whom it came from.

    Raises:
        Intruder: The other end does not know the secret.
    """
    peer = {"driver": "worker", "worker": "driver"}[role]
    ours = secrets.token_bytes(_NONCE_BYTES)
    connected.sendall(ours)
    theirs = _exactly(connected, _NONCE_BYTES)
    numbers = {role: ours, peer: theirs}
    both = numbers["driver"] + numbers["worker"]
    connected.sendall(_proof(secret, role, both))
    if not hmac.compare_digest(_exactly(connected, _PROOF_BYTES), _proof(secret, peer, both)):
        raise Intruder("a connection was turned away: it does not know the job's secret")


def _proof(secret: bytes, role: str, numbers: bytes) -> bytes:
    return hmac.digest(secret, role.encode() + numbers, "sha256")


def _exactly(connected: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connected.recv(count - len(data))
        if not more:
            raise Intruder("a connection was turned away: it closed before it proved anything")
        data += more
    return data
