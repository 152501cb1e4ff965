"""``sumgrad ui``: MLflow's own pages on the right store."""

import os
import signal
import subprocess
import webbrowser
from pathlib import Path

import typer

from jobs.tracking import check_reachable, resolve_tracking_uri, ui_command


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
    check_reachable(uri)
    page = ui_command(uri, port)
    typer.echo(f"runs of {tracking_uri}: {page.address}")
    if not page.command:
        webbrowser.open(page.address)
        return 0
    typer.echo("Ctrl-C ends it.")
    server = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
        page.command, env=os.environ | dict(page.environment)
    )
    return _wait(server)


def _wait(server: "subprocess.Popen[bytes]") -> int:
    """Pass a termination on to the server, and end with it."""
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    try:
        return server.wait()
    except KeyboardInterrupt:
        # The terminal has sent it to the server as well.
        server.wait()
        return 0
