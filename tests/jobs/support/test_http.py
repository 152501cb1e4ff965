"""Requests over real sockets: deadlines, redirects, limits, and one line for each failure."""

import gzip
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sumgrad.jobs.support import http
from sumgrad.jobs.support.http import RequestFailed, Response, send_request
from tests.jobs.service.fakes import Answer, free_port, raw_socket_server, site

TOKEN = "t0ken-of-the-lab"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("status", [200, 404, 503])
def test_any_status_is_an_answer(method: str, status: int) -> None:
    with site({"/x": Answer(status, "ü")}) as server:
        assert send_request(method, f"{server.address}/x", timeout=5.0).text == "ü"
        (asked,) = server.asked
    assert (asked.method, asked.path, asked.body) == (method, "/x", "")
    assert "Authorization" not in asked.headers


def test_the_token_reaches_its_host_and_no_other() -> None:
    with site({"/b": Answer(body="there")}) as other:
        redirect = Answer(302, headers={"Location": f"{other.address}/b"})
        local = Answer(302, headers={"Location": "/c"})
        with site({"/a": redirect, "/d": local, "/c": Answer()}) as server:
            assert send_request("GET", f"{server.address}/a", timeout=5.0, token=TOKEN).text
            send_request("GET", f"{server.address}/d", timeout=5.0, token=TOKEN)
        assert "Authorization" not in other.asked[0].headers
    for asked in server.asked:
        assert asked.headers["Authorization"] == f"Bearer {TOKEN}"


def test_passwords_of_the_address_and_of_netrc_are_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password s3cr3t\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with site({"/": Answer()}) as server:
        host = server.address.removeprefix("http://")
        assert send_request("GET", f"http://me:s3cr3t@{host}/", timeout=5.0).status == 200
    assert "Authorization" not in server.asked[0].headers


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"220 smtp ESMTP\r\n", "does not speak HTTP"),
        (b"\x00\x00\x12\x04\x00", "does not speak HTTP"),
        (b"HTTP/9.9 xx\r\n\r\n", "does not speak HTTP"),
        (b"", "closed connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", "breaks off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz", "does not speak HTTP"),
        (b"HTTP/1.1 302 x\r\nLocation: ftp://me:s3cr3t@x/\r\n\r\n", "ftp"),
    ],
)
def test_an_answer_that_is_not_http_fails_with_a_reason(sent: bytes, reason: str) -> None:
    def speak(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(sent)

    with raw_socket_server(speak) as address, pytest.raises(RequestFailed, match=reason) as caught:
        send_request("GET", address, timeout=5.0)
    assert "s3cr3t" not in str(caught.value)
    assert "\n" not in str(caught.value)


def silent(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def slow(connection: socket.socket) -> None:
    connection.recv(4096)
    for character in b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b" " * 9:
        connection.sendall(bytes([character]))
        time.sleep(0.01)


@pytest.mark.parametrize("speak", [silent, slow])
def test_the_deadline_holds_for_the_whole_exchange(speak: Callable[[socket.socket], None]) -> None:
    started = time.monotonic()
    with raw_socket_server(speak) as address:
        with pytest.raises(RequestFailed, match=r"no answer in 0\.2 s"):
            send_request("GET", address, timeout=0.2)
        assert time.monotonic() - started < 1.5


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://unknown.invalid:1", "Name or service not known|name resolution"),
        ("http://127.0.0.1:1/a b", "Connection refused"),
        ("http://[x", "Invalid IPv6 URL"),
        ("nothing", "No scheme supplied"),
    ],
)
def test_an_address_that_leads_nowhere_fails_with_a_reason(url: str, reason: str) -> None:
    with pytest.raises(RequestFailed, match=reason):
        send_request("GET", url, timeout=5.0)


def test_a_port_without_a_listener_refuses_the_connection() -> None:
    with pytest.raises(RequestFailed, match=r"^Connection refused$"):
        send_request("GET", f"http://127.0.0.1:{free_port()}", timeout=5.0)


def test_a_large_answer_is_refused_also_where_it_is_compressed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with site({"/": Answer(body="x" * 1000)}) as server:
        monkeypatch.setattr(http, "_MAX_BYTES", 1000)
        assert send_request("GET", server.address, timeout=5.0).status == 200
        monkeypatch.setattr(http, "_MAX_BYTES", 999)
        with pytest.raises(RequestFailed, match="more than 999 bytes"):
            send_request("GET", server.address, timeout=5.0)

    def speak(connection: socket.socket) -> None:
        connection.recv(4096)
        body = gzip.compress(bytes(1 << 20))
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    with raw_socket_server(speak) as address, pytest.raises(RequestFailed, match="more than"):
        send_request("GET", address, timeout=5.0)


def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_MAX_BYTES", 1 << 18)

    def speak(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(bytes(1 << 16))

    with raw_socket_server(speak) as address, pytest.raises(RequestFailed, match="more than"):
        send_request("GET", address, timeout=5.0)


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert Response(200, b"a\xff").text == "a\ufffd"


@pytest.mark.parametrize("ca_file", [None, Path("/etc/ca.pem")])
def test_certificates_are_verified(ca_file: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[object] = []

    def request(*_: object, verify: object, **__: object) -> None:
        used.append(verify)
        raise OSError("unknown issuer")

    monkeypatch.setattr("requests.request", request)
    with pytest.raises(RequestFailed, match="unknown issuer"):
        send_request("GET", "https://127.0.0.1:1", timeout=5.0, ca_file=ca_file)
    assert used == [str(ca_file) if ca_file else True]
