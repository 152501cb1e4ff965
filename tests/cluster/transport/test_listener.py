"""Authentication: only peers that know the secret are accepted, and no peer blocks another."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest

from sumgrad.cluster.errors import AuthenticationError, ClusterError, ConnectionClosed
from sumgrad.cluster.transport import handshake
from sumgrad.cluster.transport import listener as listener_module
from sumgrad.cluster.transport.connection import Connection
from sumgrad.cluster.transport.handshake import authenticate, connect
from sumgrad.cluster.transport.listener import Listener
from tests.cluster.polling import wait_for
from tests.cluster.transport.descriptors import open_descriptors
from tests.cluster.transport.test_messages import MESSAGES


@pytest.fixture
def listener() -> Iterator[Listener]:
    with closing(Listener()) as listener:
        yield listener


@pytest.fixture
def open_socket(listener: Listener) -> Iterator[Callable[[], socket.socket]]:
    """Connects without authenticating."""
    with ExitStack() as stack:

        def open_socket() -> socket.socket:
            connected = stack.enter_context(socket.socket(socket.AF_UNIX))
            connected.settimeout(10)
            connected.connect(str(listener.address.local))
            return connected

        yield open_socket


def next_accepted(listener: Listener) -> Connection:
    accepted: list[Connection] = []

    def has_accepted() -> bool:
        accepted.extend(listener.accepted.drain())
        return bool(accepted)

    wait_for(has_accepted, 10)
    return accepted[0]


def is_closed_by_peer(connected: socket.socket) -> bool:
    while connected.recv(100):
        pass
    return True


def test_a_peer_that_knows_the_secret_is_accepted(listener: Listener) -> None:
    with (
        closing(connect(listener.address, listener.secret)) as worker,
        closing(next_accepted(listener)) as driver,
    ):
        worker.send(MESSAGES[0])
        assert driver.receive() == MESSAGES[0]
        driver.send(MESSAGES[1])
        assert worker.receive() == MESSAGES[1]


@pytest.mark.parametrize("host", [None, "127.0.0.1"])
def test_a_peer_that_does_not_know_the_secret_is_rejected(
    host: str | None, log: pytest.LogCaptureFixture
) -> None:
    with closing(Listener(host)) as listener:
        address = replace(listener.address, local=None) if host else listener.address
        with pytest.raises((AuthenticationError, ConnectionClosed)):
            connect(address, b"guess" * 6)
        assert list(listener.accepted.drain()) == []
        wait_for(lambda: log.messages, 10)
    assert log.messages == ["a connection was rejected: it does not know the job's secret"]


def test_a_driver_that_does_not_know_the_secret_is_noticed() -> None:
    ours, theirs = socket.socketpair()

    def pretend() -> None:
        with closing(theirs), pytest.raises(AuthenticationError):
            authenticate(theirs, b"another secret", "driver")

    thread = threading.Thread(target=pretend)
    thread.start()
    with closing(ours), pytest.raises(AuthenticationError, match="does not know the job's secret"):
        authenticate(ours, b"the secret", "worker")
    thread.join()


def test_a_peer_that_disconnects_during_the_handshake_is_not_said_to_lack_the_secret() -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionClosed, match="disconnected during the handshake"):
            authenticate(ours, b"the secret", "worker")


def test_a_reflected_proof_is_rejected(
    listener: Listener, open_socket: Callable[[], socket.socket]
) -> None:
    mirror = open_socket()
    while received := mirror.recv(100):
        mirror.sendall(received)
    assert list(listener.accepted.drain()) == []


def test_no_port_is_open_unless_there_are_other_machines(listener: Listener) -> None:
    assert listener.address.remote is None
    with pytest.raises(ConnectionClosed, match="listens on no address"):
        connect(replace(listener.address, local=None), listener.secret)


def test_a_silent_peer_is_rejected_and_blocks_no_other(
    listener: Listener,
    open_socket: Callable[[], socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handshake, "HANDSHAKE_TIMEOUT_S", 0.5)
    silent = open_socket()
    with closing(connect(listener.address, listener.secret)):
        next_accepted(listener).close()
    assert is_closed_by_peer(silent)


def test_a_peer_that_sends_a_byte_now_and_then_is_rejected(
    open_socket: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "HANDSHAKE_TIMEOUT_S", 0.5)
    slow = open_socket()
    slow.settimeout(0.1)
    started, received = time.monotonic(), b"?"
    while received:
        assert time.monotonic() - started < 5, "it may stay as long as it sends something"
        try:
            slow.send(b"x")
            received = slow.recv(100)
        except TimeoutError:
            pass
        except OSError:
            break


def test_the_oldest_of_too_many_handshakes_is_ended(
    listener: Listener,
    open_socket: Callable[[], socket.socket],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listener_module, "_MAX_HANDSHAKES", 3)
    silent = [open_socket() for _ in range(5)]
    with closing(connect(listener.address, listener.secret)):
        next_accepted(listener).close()
    assert is_closed_by_peer(silent[0])
    assert len(silent[4].recv(100)) == 32
    silent[4].settimeout(0.1)
    with pytest.raises(TimeoutError):
        silent[4].recv(100)


def test_a_connection_that_breaks_off_does_not_end_the_listener(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = socket.socket.accept
    broken: list[int] = []

    def broken_once(listening: socket.socket) -> tuple[socket.socket, object]:
        connected, address = accept(listening)
        if not broken:
            broken.append(connected.fileno())
            connected.close()
            raise ConnectionAbortedError
        return connected, address

    monkeypatch.setattr(socket.socket, "accept", broken_once)
    # The listening thread is in the call that it made before.
    connect(listener.address, listener.secret).close()
    with pytest.raises((ConnectionClosed, AuthenticationError)):
        connect(listener.address, listener.secret)
    assert broken
    connect(listener.address, listener.secret).close()


def test_a_peer_for_which_no_thread_can_start_is_disconnected(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
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
        connect(listener.address, listener.secret)
    assert refused
    assert listener._handshakes == {}
    connect(listener.address, listener.secret).close()


def test_a_host_that_is_not_this_machine_is_an_error() -> None:
    before = open_descriptors()
    with pytest.raises(ClusterError, match=r"cannot listen for workers at 192\.0\.2\.1"):
        Listener("192.0.2.1")
    assert open_descriptors() == before


def test_a_closed_listener_accepts_no_connection() -> None:
    listener = Listener()
    listener.close()
    with pytest.raises(ConnectionClosed):
        connect(listener.address, listener.secret)
