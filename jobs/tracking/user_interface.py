"""``sumgrad ui``: MLflow's own pages on the right store."""

import contextlib
import os
import signal
import subprocess
import threading
import time
import webbrowser
from pathlib import Path

import typer

from sumgrad.jobs.config.credentials import USER, find_credentials
from sumgrad.jobs.config.tracking_uri import check_tracking_reachable, resolve_tracking_uri
from sumgrad.jobs.errors import TrackingError
from sumgrad.jobs.support.redaction import redact, without_user
from sumgrad.jobs.tracking.ui import ui_command

#: Seconds that a server may take to start.
_PATIENCE_S = 60


def serve_ui(tracking_uri: str, port: int) -> int:
    """Show a store's runs until interrupted; a server's address is only named and opened.

    Args:
        tracking_uri: As a spec names it.
        port: Where a local server shall listen, on loopback only.

    Returns:
        The exit code.

    Raises:
        TrackingError: The store cannot be reached.
    """
    uri = resolve_tracking_uri(tracking_uri, Path.cwd())
    check_tracking_reachable(uri)
    page = ui_command(uri, port)
    typer.echo(f"runs of {redact(tracking_uri)}: {page.address}")
    if login := find_credentials(uri):
        typer.echo(f"It asks for the user '{USER}' and a password: the token in {login.token_file}")
    threading.Thread(target=_open_when_it_answers, args=(page.address,), daemon=True).start()
    if not page.command:
        return 0
    typer.echo("Ctrl-C ends it.")
    server = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
        page.command, env=os.environ | dict(page.environment)
    )
    return _wait(server)


def _open_when_it_answers(address: str) -> None:
    """Show the page to a person at a desktop; a browser for terminals would only be in the way."""
    if not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
        return
    for _ in range(_PATIENCE_S):
        with contextlib.suppress(TrackingError):
            check_tracking_reachable(address)
            webbrowser.open(without_user(address))
            return
        time.sleep(1)


def _wait(server: "subprocess.Popen[bytes]") -> int:
    """Pass a termination on to the server, and end with it."""
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    try:
        return server.wait()
    except KeyboardInterrupt:
        # The terminal has sent it to the server as well.
        server.wait()
        return 0
