"""``sumgrad ui``: MLflow's web pages on a store."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import webbrowser
from collections.abc import Mapping
from pathlib import Path

import typer

from sumgrad.jobs.config.clusters import find_credentials
from sumgrad.jobs.config.credentials import USER
from sumgrad.jobs.config.tracking_uri import (
    check_tracking_reachable,
    is_server,
    resolve_tracking_uri,
)
from sumgrad.jobs.errors import JobError, TrackingError
from sumgrad.jobs.support.redaction import redact, without_user

_HOST = "127.0.0.1"
_START_TIMEOUT_S = 60


def serve_ui(tracking_uri: str, port: int) -> int:
    """Serve a store's pages on a port of loopback until interrupted, and return the exit code.

    Those of an MLflow server are only opened.

    Raises:
        TrackingError: The store cannot be reached.
        JobError: The port is taken.
    """
    uri = resolve_tracking_uri(tracking_uri, Path.cwd())
    check_tracking_reachable(uri)
    address = redact(uri) if is_server(uri) else f"http://{_HOST}:{port}"
    if not is_server(uri):
        _check_free(port)
    typer.echo(f"runs of {redact(tracking_uri)}: {address}")
    if login := find_credentials(uri):
        typer.echo(f"log in as '{USER}' with the token in {login.token_file}")
    if is_server(uri):
        _open_browser(address)
        return 0
    threading.Thread(target=_open_browser, args=(address,), daemon=True).start()
    typer.echo("Ctrl-C ends it.")
    server = subprocess.Popen(ui_command(port), env=os.environ | ui_environment(uri))  # noqa: S603
    return _wait(server)


def ui_command(port: int) -> list[str]:
    """Return the command of a local server."""
    return [
        *(sys.executable, "-P", "-m", "mlflow", "ui"),
        *("--host", _HOST, "--port", str(port), "--workers", "1"),
        # By default uvicorn puts the current folder first on the path.
        *("--uvicorn-opts", f"--app-dir {shlex.quote(sysconfig.get_path('purelib'))}"),
    ]


def ui_environment(uri: str) -> Mapping[str, str]:
    """Return the environment of a local server; command lines would show the URI's password."""
    return {
        "MLFLOW_BACKEND_STORE_URI": uri,
        # As -P, for the processes that MLflow starts.
        "PYTHONSAFEPATH": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # These processes would outlive the server for a while.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def _check_free(port: int) -> None:
    """Raise JobError if another program listens on a port, for which MLflow's exit code is 0."""
    try:
        socket.create_server((_HOST, port)).close()
    except OSError as error:
        message = f"port {port} cannot be used: {error.strerror}"
        raise JobError(message, hint="choose another with --port") from None


def _open_browser(address: str) -> None:
    """Open the page once the server answers, on a desktop only."""
    if not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
        return
    for _ in range(_START_TIMEOUT_S):
        with contextlib.suppress(TrackingError):
            check_tracking_reachable(address)
            webbrowser.open(without_user(address))
            return
        time.sleep(1)


def _wait(server: "subprocess.Popen[bytes]") -> int:
    """Wait for the server's end, pass a termination on to it, and return the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    try:
        code = server.wait()
    except KeyboardInterrupt:
        # The terminal has sent it to the server as well.
        server.wait()
        return 0
    # A negative code is the number of the signal that ended the server.
    return 128 - code if code < 0 else code
