"""What ``sumgrad cluster up`` starts, and with which ports, options and environment.

Both servers listen on loopback alone, and both ask for the same token.
"""

import importlib.util
import os
import socket
import sys
from pathlib import Path

from sumgrad.jobs.config.credentials import TOKEN_FILE
from sumgrad.jobs.errors import ServiceUnreachable
from sumgrad.jobs.service.versions import INSTALL_HINT

HOST = "127.0.0.1"
#: As long as Ray itself waits before it kills them.
STOP_JOB_S = 30.0
#: MLflow would start four more processes, a gigabyte in all, for evaluations that nobody here has.
_MLFLOW = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
#: With this Ray uses loopback alone, as it does on other systems by default.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
#: What the caller may have for another cluster.
_OTHERS = ("RAY_AUTH_TOKEN",)


def check_installed() -> None:
    """Raise unless what Ray and MLflow leave out by default is installed."""
    parts = {
        "Ray's dashboard, which takes jobs,": ("aiohttp_cors", "opencensus"),
        "what MLflow needs to ask for a login": ("flask_wtf",),
    }
    for what, names in parts.items():
        if any(importlib.util.find_spec(name) is None for name in names):
            raise ServiceUnreachable(f"{what} is not installed here", hint=INSTALL_HINT)


def check_port_free(what: str, port: int) -> None:
    """Raise unless a server can listen at a port.

    Raises:
        ServiceUnreachable: Somebody else does.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServiceUnreachable(
                f"port {port}, for {what}, cannot be had: {error.strerror}",
                hint="--port and --mlflow-port choose others",
            ) from None


def mlflow_command(place: Path, token: Path, port: int) -> list[str]:
    """MLflow's server.

    Args:
        place: The folder for all that it keeps.
        token: The file with the password.
        port: At which it listens.
    """
    return [
        *(
            sys.executable,
            "-P",
            "-m",
            "sumgrad.jobs.service.local.mlflow_server",
            str(token),
            str(place),
        ),
        *("--host", HOST, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{place / 'mlflow.db'}"),
        *("--artifacts-destination", (place / "mlartifacts").as_uri()),
        *("--allowed-hosts", f"{HOST}:{port},localhost:{port}"),
    ]


def mlflow_environment() -> dict[str, str]:
    """All that MLflow's server gets."""
    return _own_environment() | _MLFLOW


def ray_command(port: int, cpus: int | None) -> list[str]:
    """Ray's head.

    Args:
        port: Of its dashboard.
        cpus: That jobs may use; None for all.
    """
    # Every port that Ray would take by default is one that another instance may have.
    client, agent, gcs = free_ports(3)
    return [
        *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--port", str(gcs), "--disable-usage-stats"),
        *("--dashboard-host", HOST, "--dashboard-port", str(port)),
        *("--ray-client-server-port", str(client), "--dashboard-agent-listen-port", str(agent)),
        *(("--num-cpus", str(cpus)) if cpus else ()),
    ]


def ray_environment(place: Path, token: Path, tracking_uri: str) -> dict[str, str]:
    """All that Ray's head gets, and jobs from it.

    Args:
        place: The folder of the cluster.
        token: The file with its token.
        tracking_uri: Of its MLflow, which has the same token.
    """
    return _own_environment() | {
        **_LOOPBACK,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        # A job that is stopped saves itself.
        "RAY_JOB_STOP_WAIT_TIME_S": f"{STOP_JOB_S:.0f}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_TRACKING_URI": tracking_uri,
        TOKEN_FILE: str(token),
        "SUMGRAD_OUTPUT": str(place / "jobs"),
        "SUMGRAD_PYTHON": sys.executable,
    }


def _own_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _OTHERS}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at."""
    with_ports = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in with_ports]
    for each in with_ports:
        each.close()
    return ports
