"""Messages over sockets: whole, in order, and only between those who know the secret."""

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sumgrad.cluster.errors import (
    AuthenticationError,
    ClusterError,
    ConnectionClosed,
    ProtocolError,
)
from sumgrad.cluster.transport import connection as module
from sumgrad.cluster.transport import listener, memfd
from sumgrad.cluster.transport.connection import Connection, authenticate, connect
from sumgrad.cluster.transport.listener import Listener
from sumgrad.cluster.transport.messages import (
    AttachBuffer,
    Compute,
    Done,
    Hello,
    Message,
    decode,
    encode,
    expect,
)
from sumgrad.cluster.transport.remote_sender import RemoteInbox, RemoteSender
from sumgrad.model.validation import Array

MESSAGES: list[Message] = [
    Hello(1, 2, 1, "x86_64", "2.4", "OpenBLAS", "ab"),
    AttachBuffer(3),
    Compute(7, "gradient", "train", 1, 2, 3, 4, 0),
    Done(7, [[1, 0, 0.1, 0, 5, None], [0, 2, float("inf"), 1, 2, 3]]),  # type: ignore[list-item]
]


def connected_by_tcp() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    return one, other


@pytest.fixture
def ends() -> Iterator[tuple[Connection, Connection]]:
    left, right = (Connection(end) for end in socket.socketpair())
    yield left, right
    left.close()
    right.close()


@pytest.fixture
def door() -> Iterator[Listener]:
    door = Listener()
    yield door
    door.close()


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    assert decode(encode(message)) == message


@settings(derandomize=True, deadline=None)
@given(data=st.binary(max_size=60))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


@pytest.mark.parametrize("data", [b'["Hello"]', b'["os.system", "ls"]', b"[]", b"{}", b"[[]]"])
def test_no_other_kind_is_made(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


def test_another_kind_than_expected_is_refused() -> None:
    with pytest.raises(ProtocolError, match="expected Hello, got AttachBuffer"):
        expect(Hello, AttachBuffer(1))


def test_many_messages_arrive_in_their_order(ends: tuple[Connection, Connection]) -> None:
    left, right = ends
    for message in MESSAGES * 3:
        left.send(message)
    assert right.receive() == MESSAGES[0]
    assert list(right.pending()) == (MESSAGES * 3)[1:]
    assert list(right.pending()) == []


def test_descriptors_travel_with_their_messages(ends: tuple[Connection, Connection]) -> None:
    left, right = ends
    descriptor, array = memfd.create((3,), "float32")
    array[:] = [1, 2, 3]
    left.send(MESSAGES[0])
    left.send(AttachBuffer(0), [descriptor])
    os.close(descriptor)
    right.receive()
    right.receive()
    theirs = right.descriptor()
    shared = memfd.attach(theirs, (3,), "float32")
    os.close(theirs)
    assert shared.tolist() == [1, 2, 3]
    shared[0] = 9
    assert array[0] == 9
    with pytest.raises(ProtocolError, match="without the descriptor"):
        right.descriptor()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_descriptors_that_nobody_claims_are_closed_with_the_channel() -> None:
    before = open_descriptors()
    left, right = (Connection(end) for end in socket.socketpair())
    with Path("/dev/null").open() as file:
        left.send(AttachBuffer(0), [file.fileno()])
    right.receive()
    for one in (left, right):
        one.close()
    assert open_descriptors() == before


@pytest.mark.parametrize("call", ["os.ftruncate", "mmap.mmap"])
def test_memory_that_cannot_be_had_leaves_no_descriptor(
    monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = open_descriptors()
    monkeypatch.setattr(f"sumgrad.cluster.transport.memfd.{call}", refuse)
    with pytest.raises(ClusterError, match="No space left"):
        memfd.create((3,), "float32")
    assert open_descriptors() == before


def test_a_courier_that_stumbles_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for one that is not heard any more, whatever it was."""
    stumbled = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: stumbled.set())

    def no_room(_: Message) -> list[Array]:
        raise MemoryError

    left, right = (Connection(end) for end in connected_by_tcp())
    inbox = RemoteInbox()
    courier = RemoteSender(3, right, inbox, no_room)
    left.send(MESSAGES[3])
    assert select.select([inbox], [], [], 10)[0], "nothing is told"
    assert inbox.take() == (courier, None)
    assert stumbled.wait(10)
    courier.close()
    for one in (left, right, inbox):
        one.close()


@pytest.mark.parametrize("look_s", [0.0, 0.02, 60.0])
def test_a_message_is_received_looked_for_or_slept_for(look_s: float) -> None:
    left, right = (Connection(end) for end in socket.socketpair())
    later = threading.Timer(0.1, lambda: left.send(MESSAGES[1]))
    later.start()
    assert right.receive(look_s) == MESSAGES[1]
    later.join()
    left.close()
    with pytest.raises(ConnectionClosed):
        right.receive(look_s)
    right.close()


@pytest.mark.parametrize("size", [0, 3, 300_000])
def test_numbers_follow_their_message(size: int) -> None:
    left, right = (Connection(end) for end in connected_by_tcp())
    first = np.arange(size, dtype=np.float32)
    second = np.full(5, 7.5, dtype=np.float32)

    def send() -> None:
        left.send(MESSAGES[3], numbers=[first, second])
        left.send(MESSAGES[1])

    thread = threading.Thread(target=send)
    thread.start()
    assert right.receive() == MESSAGES[3]
    got = np.empty(size, np.float32), np.empty(5, np.float32)
    right.receive_numbers(got)
    assert right.receive() == MESSAGES[1]
    thread.join()
    assert got[0].tobytes() == first.tobytes()
    assert got[1].tobytes() == second.tobytes()
    left.close()
    right.close()


@pytest.mark.parametrize("room", [2, 4])
def test_numbers_of_another_count_are_refused(room: int) -> None:
    left, right = (Connection(end) for end in connected_by_tcp())
    left.send(MESSAGES[1], numbers=[np.zeros(3)])
    right.receive()
    with pytest.raises(ProtocolError, match="24 bytes of numbers"):
        right.receive_numbers([np.zeros(room)])
    with pytest.raises(ProtocolError, match="nobody asked for"):
        right.receive()
    left.close()
    right.close()


def test_an_end_that_goes_in_the_middle_of_numbers_is_told() -> None:
    left, right = connected_by_tcp()
    channel = Connection(right)
    data = encode(MESSAGES[1])
    left.sendall(struct.pack("<IQ", len(data), 800) + data + b"half")
    left.close()
    channel.receive()
    with pytest.raises(ConnectionClosed):
        channel.receive_numbers([np.zeros(100)])
    channel.close()


def test_an_end_that_is_gone_is_told_after_its_last_words(
    ends: tuple[Connection, Connection],
) -> None:
    left, right = ends
    left.send(MESSAGES[1])
    left.close()
    assert list(right.pending()) == [MESSAGES[1]]
    with pytest.raises(ConnectionClosed):
        list(right.pending())
    with pytest.raises(ConnectionClosed):
        right.receive()


def test_a_frame_that_promises_too_much_is_refused() -> None:
    left, right = socket.socketpair()
    channel = Connection(right)
    left.send(struct.pack("<IQ", 0xFFFFFFFF, 0))
    with pytest.raises(ProtocolError, match="bytes"):
        list(channel.pending())
    left.close()
    channel.close()


def test_who_knows_the_secret_is_let_in(door: Listener) -> None:
    channel = connect(door.address, door.secret)
    (admitted,) = wait_for(door)
    channel.send(MESSAGES[0])
    assert admitted.receive() == MESSAGES[0]
    admitted.send(MESSAGES[1])
    assert channel.receive() == MESSAGES[1]
    channel.close()
    admitted.close()


def wait_for(door: Listener) -> list[Connection]:
    """Who is let in within some seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        admitted = door.admitted()
        if admitted:
            return admitted
        time.sleep(0.01)
    pytest.fail("nobody was let in")


@pytest.mark.parametrize("host", [None, "127.0.0.1"])
def test_who_does_not_know_the_secret_is_turned_away(host: str | None) -> None:
    door = Listener(host)
    address = replace(door.address, local=None) if host else door.address
    with pytest.raises((AuthenticationError, ConnectionClosed)):
        connect(address, b"guess" * 6)
    assert door.admitted() == []
    door.close()


def test_no_port_is_open_where_none_is_needed(door: Listener) -> None:
    assert door.address.remote is None
    with pytest.raises(ConnectionClosed, match="listens nowhere"):
        connect(replace(door.address, local=None), door.secret)


def test_who_says_nothing_is_turned_away_and_holds_nobody_up(
    door: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HANDSHAKE_S", 0.5)
    silent = socket.socket(socket.AF_UNIX)
    silent.connect(str(door.address.local))
    channel = connect(door.address, door.secret)
    (admitted,) = wait_for(door)
    silent.settimeout(10)
    received = b"?"
    while received:
        received = silent.recv(100)
    for one in (silent, channel, admitted):
        one.close()


def test_who_says_a_little_now_and_then_is_turned_away_too(
    door: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HANDSHAKE_S", 0.6)
    slow = socket.socket(socket.AF_UNIX)
    slow.connect(str(door.address.local))
    slow.settimeout(0.2)
    began, received = time.monotonic(), b"?"
    while received:
        assert time.monotonic() - began < 5, "it may stay as long as it says something"
        try:
            slow.send(b"x")
            received = slow.recv(100)
        except TimeoutError:
            pass
        except OSError:
            break
    slow.close()


def test_where_the_door_is_full_the_oldest_has_to_go(
    door: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "_MOST_AT_THE_DOOR", 3)
    silent = [socket.socket(socket.AF_UNIX) for _ in range(5)]
    for one in silent:
        one.connect(str(door.address.local))
    began = time.monotonic()
    channel = connect(door.address, door.secret)
    (admitted,) = wait_for(door)
    assert time.monotonic() - began < module.HANDSHAKE_S / 2
    silent[0].settimeout(1)
    assert len(silent[0].recv(100)) == 32
    assert silent[0].recv(100) == b"", "it came first"
    silent[4].settimeout(0.1)
    assert len(silent[4].recv(100)) == 32
    with pytest.raises(TimeoutError):
        silent[4].recv(100)
    for end in silent:
        end.close()
    channel.close()
    admitted.close()


def test_one_connection_that_breaks_off_ends_nothing(
    door: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = socket.socket.accept
    broken: list[int] = []

    def once_broken(listener: socket.socket) -> tuple[socket.socket, object]:
        connected, address = accept(listener)
        if not broken:
            broken.append(connected.fileno())
            connected.close()
            raise ConnectionAbortedError
        return connected, address

    monkeypatch.setattr(socket.socket, "accept", once_broken)
    # The listening thread is in the call that it made before.
    connect(door.address, door.secret).close()
    with pytest.raises((ConnectionClosed, AuthenticationError)):
        connect(door.address, door.secret)
    assert broken
    channel = connect(door.address, door.secret)
    channel.close()
    for admitted in wait_for(door):
        admitted.close()


def test_where_there_can_be_no_thread_nobody_stays_at_the_door(
    door: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    refused: list[object] = []

    def refuse_once(thread: threading.Thread) -> None:
        if not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_once)
    with pytest.raises((ConnectionClosed, AuthenticationError)):
        connect(door.address, door.secret)
    assert refused
    assert door._at_the_door == {}
    channel = connect(door.address, door.secret)
    (admitted,) = wait_for(door)
    admitted.close()
    channel.close()


def test_an_address_that_is_not_ours_cannot_be_listened_at() -> None:
    before = open_descriptors()
    with pytest.raises(ClusterError, match=r"cannot be listened for at 192\.0\.2\.1"):
        Listener("192.0.2.1")
    assert open_descriptors() == before


def test_an_answer_sent_back_to_whom_it_came_from_proves_nothing(door: Listener) -> None:
    """A stranger who mirrors the driver's own words."""
    mirror = socket.socket(socket.AF_UNIX)
    mirror.settimeout(10)
    mirror.connect(str(door.address.local))
    received = b"?"
    while received:
        received = mirror.recv(100)
        if received:
            mirror.sendall(received)
    mirror.close()
    assert door.admitted() == []


def test_an_impostor_of_the_driver_is_noticed() -> None:
    ours, theirs = socket.socketpair()

    def pretend() -> None:
        with pytest.raises(AuthenticationError):
            authenticate(theirs, b"another secret", "driver")
        theirs.close()

    thread = threading.Thread(target=pretend)
    thread.start()
    with pytest.raises(AuthenticationError, match="does not know the job's secret"):
        authenticate(ours, b"the secret", "worker")
    thread.join()
    ours.close()


def test_nobody_listens_after_the_end() -> None:
    door = Listener()
    door.close()
    with pytest.raises(ConnectionClosed):
        connect(door.address, door.secret)
