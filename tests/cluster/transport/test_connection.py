"""Messages over sockets: whole, in order, with their descriptors and arrays."""

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sumgrad.cluster.errors import ConnectionClosed, ProtocolError
from sumgrad.cluster.transport import shared_memory
from sumgrad.cluster.transport.connection import Connection
from sumgrad.cluster.transport.messages import AttachBuffer, encode
from tests.cluster.transport.descriptors import open_descriptors
from tests.cluster.transport.test_messages import MESSAGES


def connect_by_tcp() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    return one, other


@pytest.fixture
def ends() -> Iterator[tuple[Connection, Connection]]:
    left, right = map(Connection, socket.socketpair())
    with closing(left), closing(right):
        yield left, right


@pytest.fixture
def tcp_ends() -> Iterator[tuple[Connection, Connection]]:
    left, right = map(Connection, connect_by_tcp())
    with closing(left), closing(right):
        yield left, right


Ends = tuple[Connection, Connection]


def test_messages_arrive_in_order(ends: Ends) -> None:
    left, right = ends
    for message in MESSAGES * 3:
        left.send(message)
    assert right.receive() == MESSAGES[0]
    assert list(right.receive_available()) == (MESSAGES * 3)[1:]
    assert list(right.receive_available()) == []


def test_descriptors_arrive_with_their_messages(ends: Ends) -> None:
    left, right = ends
    descriptor, array = shared_memory.create((3,), "float32")
    array[:] = [1, 2, 3]
    left.send(MESSAGES[0])
    left.send(AttachBuffer(0), [descriptor])
    os.close(descriptor)
    right.receive()
    right.receive()
    received = right.pop_descriptor()
    shared = shared_memory.attach(received, (3,), "float32")
    os.close(received)
    assert shared.tolist() == [1, 2, 3]
    shared[0] = 9
    assert array[0] == 9
    with pytest.raises(ProtocolError, match="without its descriptor"):
        right.pop_descriptor()


def test_a_peer_may_close_once_it_has_a_message_with_its_descriptors(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = ends
    send_fds = socket.send_fds

    def send_and_be_closed(*arguments: Any) -> int:
        sent = send_fds(*arguments)
        right.close()
        return sent

    monkeypatch.setattr(socket, "send_fds", send_and_be_closed)
    with closing(socket.socket()) as shared:
        left.send(AttachBuffer(0), [shared.fileno()])


def test_descriptors_that_were_not_taken_are_closed_with_the_connection() -> None:
    before = open_descriptors()
    left, right = map(Connection, socket.socketpair())
    with closing(left), closing(right):
        with Path("/dev/null").open() as file:
            left.send(AttachBuffer(0), [file.fileno()])
        right.receive()
    assert open_descriptors() == before


@pytest.mark.parametrize("spin_s", [0.0, 0.01, 60.0])
def test_a_message_is_polled_or_blocked_for(ends: Ends, spin_s: float) -> None:
    left, right = ends
    later = threading.Timer(0.05, lambda: left.send(MESSAGES[1]))
    later.start()
    assert right.receive(spin_s) == MESSAGES[1]
    later.join()
    left.close()
    with pytest.raises(ConnectionClosed):
        right.receive(spin_s)


@pytest.mark.parametrize("size", [0, 3, 300_000])
def test_arrays_follow_their_message(tcp_ends: Ends, size: int) -> None:
    left, right = tcp_ends
    first = np.arange(size, dtype=np.float32)
    second = np.full(5, 7.5, dtype=np.float32)

    def send() -> None:
        left.send(MESSAGES[3], arrays=[first, second])
        left.send(MESSAGES[1])

    thread = threading.Thread(target=send)
    thread.start()
    assert right.receive() == MESSAGES[3]
    received = np.empty(size, np.float32), np.empty(5, np.float32)
    right.receive_arrays(received)
    assert right.receive() == MESSAGES[1]
    thread.join()
    assert received[0].tobytes() == first.tobytes()
    assert received[1].tobytes() == second.tobytes()


@pytest.mark.parametrize("size", [2, 4])
def test_arrays_of_another_size_are_rejected(tcp_ends: Ends, size: int) -> None:
    left, right = tcp_ends
    left.send(MESSAGES[1], arrays=[np.zeros(3)])
    right.receive()
    with pytest.raises(ProtocolError, match="24 bytes of arrays"):
        right.receive_arrays([np.zeros(size)])
    with pytest.raises(ProtocolError, match="have not been received"):
        right.receive()


def test_a_peer_that_disconnects_within_arrays_is_noticed() -> None:
    left, right = connect_by_tcp()
    with closing(Connection(right)) as connection:
        data = encode(MESSAGES[1])
        left.sendall(struct.pack("<IQ", len(data), 800) + data + b"half")
        left.close()
        connection.receive()
        with pytest.raises(ConnectionClosed):
            connection.receive_arrays([np.zeros(100)])


def test_a_disconnect_is_reported_after_the_last_message(ends: Ends) -> None:
    left, right = ends
    left.send(MESSAGES[1])
    left.close()
    assert list(right.receive_available()) == [MESSAGES[1]]
    with pytest.raises(ConnectionClosed):
        list(right.receive_available())
    with pytest.raises(ConnectionClosed):
        right.receive()


def test_a_frame_that_announces_too_much_is_rejected() -> None:
    left, right = socket.socketpair()
    with closing(left), closing(Connection(right)) as connection:
        left.send(struct.pack("<IQ", 0xFFFFFFFF, 0))
        with pytest.raises(ProtocolError, match="bytes"):
            list(connection.receive_available())
