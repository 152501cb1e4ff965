"""Framed messages over a connected socket.

A frame is the length of a message and that of the arrays that follow it, both little-endian, then
the message and the arrays. On one machine no arrays are sent: descriptors of shared memory travel
beside the message. Connections are authenticated when they are made (`handshake`); the traffic is
not encrypted.
"""

import array
import contextlib
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence

from sumgrad.cluster.errors import ConnectionClosed, ProtocolError
from sumgrad.cluster.transport.messages import Message, decode, encode
from sumgrad.model.validation import Array

#: Longest message, in bytes; a frame that announces more is rejected before anything is allocated.
MAX_MESSAGE_BYTES = 1 << 24
_LENGTHS = struct.Struct("<IQ")
_MAX_DESCRIPTORS = 16


class Connection:
    """Messages in both directions over a stream socket, which is closed with the connection.

    Every method raises `ConnectionClosed` once the peer has disconnected, and `ProtocolError` if
    what was received is not what was asked for.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        #: Whether both ends are on one machine, so that descriptors can be sent.
        self.is_local = connected.family == socket.AF_UNIX
        self._buffer = bytearray()
        self._descriptors: deque[int] = deque()
        self._array_bytes = 0  #: Bytes of arrays after the last message that are not received yet.

    def fileno(self) -> int:
        """Return the socket's descriptor, for selectors."""
        return self._socket.fileno()

    def send(
        self, message: Message, descriptors: Sequence[int] = (), arrays: Sequence[Array] = ()
    ) -> None:
        """Send a message with its descriptors or arrays."""
        data = encode(message)
        frame = _LENGTHS.pack(len(data), sum(vector.nbytes for vector in arrays)) + data
        try:
            if descriptors:
                sent = socket.send_fds(self._socket, [frame], list(descriptors))
                frame = frame[sent:]
            if frame:
                # Sending nothing would fail if the peer has closed after it received everything.
                self._socket.sendall(frame)
            for vector in arrays:
                self._socket.sendall(vector.data.cast("B"))
        except OSError as error:
            raise ConnectionClosed(str(error)) from None

    def receive(self, spin_s: float = 0.0) -> Message:
        """Return the next message; poll for `spin_s` seconds before blocking, yielding the core."""
        until = time.perf_counter() + spin_s if spin_s else 0.0
        while (message := self._next()) is None:
            if spin_s and time.perf_counter() < until:
                try:
                    self._read(socket.MSG_DONTWAIT)
                except BlockingIOError:
                    os.sched_yield()
            else:
                self._read(0)
        return message

    def receive_available(self) -> Iterator[Message]:
        """Yield the messages that have arrived, without blocking.

        Arrays that follow a message have to be received before the next one is asked for.
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

    def receive_arrays(self, arrays: Sequence[Array]) -> None:
        """Receive the arrays that follow the last message into these, one after the other."""
        if sum(target.nbytes for target in arrays) != self._array_bytes:
            raise ProtocolError(f"a message with {self._array_bytes:,} bytes of arrays")
        self._array_bytes = 0
        for target in arrays:
            view = target.data.cast("B")
            filled = min(len(view), len(self._buffer))
            view[:filled] = self._buffer[:filled]
            del self._buffer[:filled]
            while filled < len(view):
                try:
                    count = self._socket.recv_into(view[filled:])
                except OSError as error:
                    raise ConnectionClosed(str(error)) from None
                if not count:
                    raise ConnectionClosed("the peer closed the connection")
                filled += count

    def pop_descriptor(self) -> int:
        """Return the next descriptor received; the caller closes it."""
        if not self._descriptors:
            raise ProtocolError("a message came without its descriptor")
        return self._descriptors.popleft()

    def _read(self, flags: int) -> None:
        ancillary_bytes = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize)
        try:
            data, ancillary, _, _ = self._socket.recvmsg(1 << 16, ancillary_bytes, flags)
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
            raise ConnectionClosed("the peer closed the connection")
        self._buffer += data

    def _next(self) -> Message | None:
        """Return the next message of the buffer, or None while it is incomplete."""
        if self._array_bytes:
            raise ProtocolError("the arrays of the last message have not been received")
        if len(self._buffer) < _LENGTHS.size:
            return None
        length, array_bytes = _LENGTHS.unpack_from(self._buffer)
        if length > MAX_MESSAGE_BYTES:
            raise ProtocolError(f"a message of {length:,} bytes")
        end = _LENGTHS.size + length
        if len(self._buffer) < end:
            return None
        data = bytes(self._buffer[_LENGTHS.size : end])
        del self._buffer[:end]
        self._array_bytes = array_bytes
        return decode(data)

    def shut_down(self) -> None:
        """End both directions, which wakes threads that block on either end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket and the descriptors that were not taken."""
        self._socket.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())
