"""Tracking URIs: resolving them, their secrets, and whether their stores answer."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from sumgrad.jobs.config.tracking_uri import (
    artifact_location,
    check_tracking_reachable,
    resolve_tracking_uri,
    with_credentials,
)
from sumgrad.jobs.errors import SpecError, TrackingError, TrackingUnreachable
from sumgrad.jobs.runs.sync import require_credentials


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ("sqlite:///mlflow.db", "sqlite:////base/mlflow.db"),
        ("sqlite:///../up/my runs.db?timeout=3", "sqlite:////up/my runs.db?timeout=3"),
        ("sqlite:////elsewhere/x.db", "sqlite:////elsewhere/x.db"),
        ("sqlite:///~no-such-user/x.db", "sqlite:////base/~no-such-user/x.db"),
        ("http://tracking:5000/", "http://tracking:5000"),
        ("postgresql://me:pw@db/mlflow", "postgresql://me:pw@db/mlflow"),
    ],
)
def test_resolved_uris_are_absolute(given: str, resolved: str) -> None:
    assert resolve_tracking_uri(given, Path("/base")) == resolved


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "file:///x", "sqlite://", "sqlite:///"])
def test_folders_and_nameless_databases_are_refused(uri: str) -> None:
    with pytest.raises(SpecError) as caught:
        resolve_tracking_uri(uri, Path("/base"))
    assert "sqlite:///mlflow.db" in caught.value.hint


@pytest.mark.parametrize(
    ("uri", "hint"),
    [("htp://tracking:5000", "did you mean 'http'?"), ("s3://bucket/x", "http, https")],
)
def test_unknown_schemes_are_refused(uri: str, hint: str) -> None:
    with pytest.raises(SpecError, match="unknown scheme") as caught:
        resolve_tracking_uri(uri, Path("/base"))
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "uri", ["http://me:s3cret/x@host", "http://me:s3?cret@host", "https://me:#s3cret@h", "http://["]
)
def test_an_address_without_a_host_is_refused_and_its_password_not_printed(uri: str) -> None:
    with pytest.raises(SpecError, match="is not the address of a server") as caught:
        resolve_tracking_uri(uri, Path("/base"))
    assert "s3" not in caught.value.message
    assert "%2F" in caught.value.hint


@pytest.mark.parametrize(
    ("recorded", "environment", "found"),
    [
        ("http://***@h:1", {"MLFLOW_TRACKING_URI": "http://me:pw@h:1/"}, "http://me:pw@h:1"),
        ("postgresql://***@h/x", {"MLFLOW_TRACKING_URI": "postgresql://u:p@h/x"}, None),
        ("mysql://h?password=***", {"MLFLOW_TRACKING_URI": "mysql://h?password=p"}, None),
        (
            "http://***@h:1",
            {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "pw"},
            "http://h:1",
        ),
        ("http://***@h:1", {"MLFLOW_TRACKING_TOKEN": "t"}, "http://h:1"),
    ],
)
def test_redacted_uris_get_their_secrets_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
    recorded: str,
    environment: dict[str, str],
    found: str | None,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = found or environment["MLFLOW_TRACKING_URI"]
    assert with_credentials(recorded) == found
    assert resolve_tracking_uri(recorded, Path("/base")) == found
    assert require_credentials(recorded) == found


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"MLFLOW_TRACKING_URI": "http://me:pw@other:1"},
        {"MLFLOW_TRACKING_URI": "http://h:1"},
        {"MLFLOW_TRACKING_URI": "mlruns"},
        {"MLFLOW_TRACKING_USERNAME": "me"},
    ],
)
def test_missing_secrets_are_an_error_that_names_the_variables(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrackingError, match="credentials are not stored") as caught:
        require_credentials("http://***@h:1")
    for name in ("URI", "USERNAME", "PASSWORD"):
        assert f"MLFLOW_TRACKING_{name}" in caught.value.hint


def test_complete_uris_ignore_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:pw@h")
    for uri in ("http://h", "http://you:pw@h", "sqlite:////***@h/x.db"):
        assert require_credentials(uri) == uri


@pytest.fixture(autouse=True)
def no_mlflow_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset the variables of the machine that runs the tests."""
    for name in ("URI", "USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)


def test_artifacts_are_beside_the_database() -> None:
    assert artifact_location("sqlite:////a b/x.db", Path("/c")) == "file:///a%20b/mlartifacts"
    assert artifact_location("postgresql://h/x", Path("/c")) == "file:///c/mlartifacts"
    assert artifact_location("http://h", Path("/c")) is None


def test_a_database_in_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="does not exist"):
        check_tracking_reachable(f"sqlite:///{tmp_path}/missing/x.db")
    with pytest.raises(TrackingError, match="cannot be written"):
        check_tracking_reachable(f"sqlite:///{tmp_path}")


class Server(HTTPServer):
    """Answers /health with a status, or not at all."""

    status: int | None = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.leave = threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.server.status is None:
            self.server.leave.wait()
            return
        self.send_response(self.server.status if self.path == "/under/health" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        yield made
        made.leave.set()
        made.shutdown()
        thread.join()


@pytest.mark.parametrize("status", [200, 401, 403])
def test_a_server_that_answers_is_reachable(server: Server, status: int) -> None:
    server.status = status
    check_tracking_reachable(f"http://me:pw@127.0.0.1:{server.server_port}/under")


@pytest.mark.parametrize(("status", "words"), [(500, "answers 500"), (None, "no answer in")])
def test_a_failing_server_is_reported_within_seconds(
    server: Server, status: int | None, words: str
) -> None:
    server.status = status
    with pytest.raises(TrackingError, match=words) as caught:
        check_tracking_reachable(f"http://me:pw@127.0.0.1:{server.server_port}/under")
    assert "pw" not in str(caught.value)


def test_a_server_that_does_not_speak_http_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.sendall(b"SSH-2.0-x\r\n\r\n")
                connection.recv(1000)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(TrackingUnreachable, match="does not answer"):
            check_tracking_reachable(f"http://127.0.0.1:{other.getsockname()[1]}")
        thread.join()


def test_a_closed_port_is_unreachable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(TrackingError, match="does not answer"):
        check_tracking_reachable(f"http://127.0.0.1:{port}")
