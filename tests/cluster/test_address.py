"""Addresses that are none, and hosts that do not answer, are reported within seconds."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from sumgrad.cluster import address as module
from sumgrad.cluster.address import check_address, check_reachable
from sumgrad.cluster.errors import ClusterUnreachable


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://head:10001", "Ray Client addresses"),
        ("somewhere", "not inline, local, auto or host:port"),
        ("head:port", "not inline, local, auto or host:port"),
    ],
)
def test_an_invalid_address_is_refused(address: str, message: str) -> None:
    with pytest.raises(ClusterUnreachable, match=message):
        check_address(address)


@pytest.mark.parametrize("address", ["inline", "local", "auto"])
def test_named_addresses_are_not_probed(address: str) -> None:
    check_reachable(address)


@contextmanager
def server(reply: Callable[[socket.socket], None]) -> Iterator[str]:
    """A port that accepts one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)

        def serve() -> None:
            with suppress(OSError):
                connected, _ = listening.accept()
                with connected:
                    reply(connected)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def wait_for_disconnect(connected: socket.socket) -> None:
    while connected.recv(100):
        pass


def test_a_closed_port_is_unreachable() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ClusterUnreachable, match="no Ray cluster answers"):
            check_reachable(address)
    with pytest.raises(ClusterUnreachable, match="no Ray cluster answers"):
        check_reachable("127.0.0.1:99999999")


def test_a_grpc_server_is_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_USE_TLS", raising=False)

    def reply(connected: socket.socket) -> None:
        assert connected.recv(14, socket.MSG_WAITALL) == b"PRI * HTTP/2.0"
        connected.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        connected.recv(100)

    with server(reply) as address:
        check_reachable(address)


def test_a_head_that_is_suspended_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel accepts connections, and it never replies."""
    monkeypatch.setattr(module, "_REPLY_TIMEOUT_S", 0.2)
    with (
        server(wait_for_disconnect) as address,
        pytest.raises(ClusterUnreachable, match="timed out"),
    ):
        check_reachable(address)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [(b"", "closed the connection"), (b"HTTP/1.1 400 Bad Request\r\n", "not a Ray head")],
)
def test_another_server_is_not_a_cluster(sent: bytes, reason: str) -> None:
    def reply(connected: socket.socket) -> None:
        connected.recv(33, socket.MSG_WAITALL)
        connected.sendall(sent)

    with server(reply) as address, pytest.raises(ClusterUnreachable, match=reason):
        check_reachable(address)


def test_tls_is_not_probed_beyond_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with server(lambda _: None) as address:
        check_reachable(address)
