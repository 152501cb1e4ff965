import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from jobs.errors import SpecError, TrackingError
from jobs.tracking import check_reachable, redact, resolve_tracking_uri
from jobs.tracking.location import artifact_location


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ("sqlite:///mlflow.db", "sqlite:////base/mlflow.db"),
        ("sqlite:///../up/my runs.db?timeout=3", "sqlite:////up/my runs.db?timeout=3"),
        ("sqlite:////elsewhere/x.db", "sqlite:////elsewhere/x.db"),
        ("http://tracking:5000/", "http://tracking:5000"),
        ("postgresql://me:pw@db/mlflow", "postgresql://me:pw@db/mlflow"),
    ],
)
def test_a_uri_does_not_depend_on_the_current_folder(given: str, resolved: str) -> None:
    assert resolve_tracking_uri(given, Path("/base")) == resolved


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "file:///x", "sqlite://", "sqlite:///"])
def test_folders_and_nameless_databases_are_refused(uri: str) -> None:
    with pytest.raises(SpecError) as caught:
        resolve_tracking_uri(uri, Path("/base"))
    assert "sqlite:///mlflow.db" in caught.value.hint
    assert caught.value.exit_code == 2


def test_credentials_are_not_shown() -> None:
    assert redact("postgresql://me:p@ss@db:1/x?y=z") == "postgresql://***@db:1/x?y=z"
    assert redact("http://tracking:5000") == "http://tracking:5000"
    assert redact("sqlite:////a b/x.db") == "sqlite:////a b/x.db"


def test_artifacts_go_beside_the_database() -> None:
    assert artifact_location("sqlite:////a b/x.db", Path("/c")) == "file:///a%20b/mlartifacts"
    assert artifact_location("postgresql://h/x", Path("/c")) == "file:///c/mlartifacts"
    assert artifact_location("http://h", Path("/c")) is None


def test_a_database_in_no_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="there is no folder"):
        check_reachable(f"sqlite:///{tmp_path}/missing/x.db")
    with pytest.raises(TrackingError, match="cannot be written"):
        check_reachable(f"sqlite:///{tmp_path}")


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
def test_a_server_that_answers_is_good(server: Server, status: int) -> None:
    server.status = status
    check_reachable(f"http://me:pw@127.0.0.1:{server.server_port}/under")


@pytest.mark.parametrize(("status", "words"), [(500, "answers 500"), (None, "timed out")])
def test_a_server_that_is_ill_is_told_of_soon(
    server: Server, status: int | None, words: str
) -> None:
    server.status = status
    with pytest.raises(TrackingError, match=words) as caught:
        check_reachable(f"http://me:pw@127.0.0.1:{server.server_port}/under")
    assert "pw" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_server_that_is_not_there_is_told_of() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(TrackingError, match="does not answer"):
        check_reachable(f"http://127.0.0.1:{port}")
