"""Showing the curves: MLflow's own user interface on a store."""

import shlex
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field

from sumgrad.jobs.config.tracking_uri import is_server
from sumgrad.jobs.support.redaction import redact


@dataclass(frozen=True)
class UserInterface:
    """Where to look, and what to start for it.

    Attributes:
        address: For a browser.
        command: What starts it; empty where a server is running already.
        environment: What the command needs in its environment.
    """

    address: str
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def ui_command(uri: str, port: int = 5000) -> UserInterface:
    """How to look at a store.

    >>> ui_command("http://tracking:5000")
    UserInterface(address='http://tracking:5000', command=(), environment={})

    Args:
        uri: A resolved tracking URI.
        port: Where a local server shall listen.
    """
    if is_server(uri):
        return UserInterface(redact(uri))
    return UserInterface(
        address=f"http://127.0.0.1:{port}",
        command=(
            *(sys.executable, "-P", "-m", "mlflow", "ui"),
            *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            # uvicorn puts its app folder first on the path, which is the current one by default.
            *("--uvicorn-opts", f"--app-dir {shlex.quote(sysconfig.get_path('purelib'))}"),
        ),
        environment={
            # Not on the command line, which every user of the machine can read.
            "MLFLOW_BACKEND_STORE_URI": uri,
            # Python puts the current folder first on its path, with any model.py in it; `-P` is
            # not passed on to the server processes that MLflow starts, this is.
            "PYTHONSAFEPATH": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # Helper processes for scoring jobs, which outlive the server for a while.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
    )
