"""A real MLflow server, and a proxy before it that can fail in several ways."""

import http.client
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

from tests.integration.fork_server import ForkedProcess

#: What the proxy does with requests: forwards them, leaves them without an answer, or answers 500,
#: 403 or 401. When it is down, its port is closed and open connections are reset.
State = Literal["open", "hangs", "fails", "forbids", "unauthorized", "down"]
_ANSWERS = {
    "fails": (500, b"broken"),
    "forbids": (403, b"not allowed"),
    "unauthorized": (401, b"log in"),
}
_LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """Return a port where no program listens."""
    with socket.create_server((_LOOPBACK, 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path, token: Path | None = None) -> Iterator[int]:
    """Run an MLflow server with a database and artifacts in a folder, and yield its port.

    Args:
        folder: Its database, artifacts and users.
        token: The file with the password of the server with a login; None for one without.
    """
    port = free_port()
    main, first = ("mlflow.cli", "cli"), ["server"]
    if token:
        main = ("sumgrad.jobs.service.local.mlflow_server", "main")
        first = [str(token), str(folder)]
    arguments = [*first, "--host", _LOOPBACK, "--port", str(port)]
    arguments += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    arguments += ["--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with (folder / "server.log").open("a") as log, Path(os.devnull).open() as null:
        streams = [null.fileno(), log.fileno(), log.fileno()]
        server = ForkedProcess(main, arguments, streams, folder, environment)
    try:
        _wait_until_healthy(port, server)
        yield port
    finally:
        server.terminate()
        server.wait(30)


def _wait_until_healthy(port: int, server: ForkedProcess) -> None:
    for _ in range(600):
        with suppress(OSError):
            urllib.request.urlopen(f"http://{_LOOPBACK}:{port}/health", timeout=5).close()
            return
        assert server.poll() is None, "the MLflow server ended"
        time.sleep(0.1)
    raise AssertionError("the MLflow server does not answer")


class MlflowProxy:
    """A proxy between sumgrad and an MLflow server.

    Args:
        behind: Port of the server.

    Attributes:
        port: Port of the proxy.
    """

    def __init__(self, behind: int) -> None:
        self.port = free_port()
        self.behind = behind
        self._changed = threading.Condition()
        self._state: State = "down"
        self._counts: dict[tuple[str, State], int] = {}
        self._turns: dict[str, State] = {}
        self._server: ThreadingHTTPServer | None = None

    @property
    def uri(self) -> str:
        """The proxy's address, for `tracking.uri`."""
        return f"http://{_LOOPBACK}:{self.port}"

    def set_state(self, state: State) -> None:
        """Change the state, for open connections too."""
        with self._changed:
            self._state = state
            self._changed.notify_all()
        if state == "down" and self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        if state != "down" and self._server is None:
            self._server = _Server(self)
            threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def set_state_at(self, path: str, state: Literal["hangs", "fails", "forbids"]) -> None:
        """Change the state at the next request for a path, and answer it in the new state."""
        with self._changed:
            self._turns[path] = state

    def wait_for(self, path: str, state: State, count: int = 1) -> None:
        """Wait until a number of requests for a path has come in a state."""

        def enough() -> bool:
            return self._counts.get((path, state), 0) >= count

        with self._changed:
            assert self._changed.wait_for(enough, 60), (path, state, self._counts)

    def register(self, path: str) -> State:
        """Count a request and return the state to answer it in; blocks while the proxy hangs."""
        with self._changed:
            name = path.partition("?")[0].removeprefix("/api/2.0/mlflow/")
            met = self._state = self._turns.pop(name, self._state)
            key = name, met
            self._counts[key] = self._counts.get(key, 0) + 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._state != "hangs")
        return met


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False

    def __init__(self, proxy: MlflowProxy) -> None:
        self.proxy = proxy
        super().__init__((_LOOPBACK, proxy.port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _pass(self) -> None:
        body = self._read_body()
        state = self.server.proxy.register(self.path)
        if state in ("hangs", "down"):
            self.close_connection = True
        elif state in _ANSWERS:
            status, body = _ANSWERS[state]
            self._answer(status, [], body)
        else:
            behind = http.client.HTTPConnection(_LOOPBACK, self.server.proxy.behind, timeout=60)
            framing = ("content-length", "transfer-encoding")
            headers = {n: v for n, v in self.headers.items() if n.lower() not in framing}
            behind.request(self.command, self.path, body, headers)
            answer = behind.getresponse()
            self._answer(answer.status, answer.getheaders(), answer.read())
            behind.close()

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _pass  # noqa: N815 - the base's names

    def _read_body(self) -> bytes:
        # requests sends an empty file, such as an empty __init__.py, in chunks.
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass
