"""The two servers of ``sumgrad cluster up``: their ports, command lines and environments."""

import importlib.util
import os
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

from sumgrad.jobs.config.credentials import TOKEN_FILE
from sumgrad.jobs.errors import ClusterConfigError
from sumgrad.jobs.service.versions import INSTALL_HINT

HOST = "127.0.0.1"
STOP_JOB_TIMEOUT_S = 30.0  #: Seconds that Ray gives a stopped job before it kills it.
#: Ray takes these ports for its workers' processes and refuses any other use of them.
RAY_WORKER_PORTS = range(10002, 20000)


def check_installed() -> None:
    """Raise unless the optional parts of Ray and MLflow are installed."""
    parts = {
        "Ray's dashboard, which accepts jobs,": ("aiohttp_cors", "opencensus"),
        "what MLflow needs to ask for a login": ("flask_wtf",),
    }
    for part, modules in parts.items():
        if any(importlib.util.find_spec(name) is None for name in modules):
            raise ClusterConfigError(f"{part} is not installed here", hint=INSTALL_HINT)


def check_ports(port: int, mlflow_port: int) -> None:
    """Raise unless Ray's dashboard and MLflow can listen at their ports."""
    if port == mlflow_port:
        raise ClusterConfigError(f"Ray's dashboard and MLflow cannot both have port {port}")
    for server, number in (("Ray's dashboard", port), ("MLflow", mlflow_port)):
        if number in RAY_WORKER_PORTS:
            first, last = RAY_WORKER_PORTS[0], RAY_WORKER_PORTS[-1]
            problem = f"port {number}, for {server}, is among the ports {first} to {last}"
            hint = "--port and --mlflow-port choose others, below or above them"
            raise ClusterConfigError(
                f"{problem} that Ray takes for its worker processes", hint=hint
            )
        check_port_free(server, number)


def check_port_free(server: str, port: int) -> None:
    """Raise if another program listens at the port for a server."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            problem = f"port {port}, for {server}, is not available: {error.strerror}"
            hint = "--port and --mlflow-port choose others"
            raise ClusterConfigError(problem, hint=hint) from None


def mlflow_command(folder: Path, token: Path, port: int) -> list[str]:
    """Return the command line of MLflow's server, which keeps everything in a folder."""
    module = "sumgrad.jobs.service.local.mlflow_server"
    return [
        *(sys.executable, "-P", "-m", module, str(token), str(folder)),
        *("--host", HOST, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", (folder / "mlartifacts").as_uri()),
        *("--allowed-hosts", f"{HOST}:{port},localhost:{port}"),
    ]


def mlflow_environment() -> dict[str, str]:
    """Return the environment of MLflow's server."""
    return _base_environment() | {
        # Job execution would start four more processes, a gigabyte in all.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def ray_command(port: int, cpus: int | None) -> list[str]:
    """Return the command line of Ray's head, with the port of its dashboard."""
    # Another instance may have any port that Ray takes by default.
    client, agent, gcs = map(str, free_ports(3))
    first, last = str(RAY_WORKER_PORTS[0]), str(RAY_WORKER_PORTS[-1])
    return [
        *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        # The log monitor sends the output of workers to their drivers, which do not print it.
        *("--port", gcs, "--disable-usage-stats", "--include-log-monitor", "false"),
        *("--dashboard-host", HOST, "--dashboard-port", str(port)),
        *("--ray-client-server-port", client, "--dashboard-agent-listen-port", agent),
        *("--min-worker-port", first, "--max-worker-port", last),
        *(("--num-cpus", str(cpus)) if cpus else ()),
    ]


def ray_environment(folder: Path, token: Path, tracking_uri: str) -> dict[str, str]:
    """Return the environment of Ray's head, which its jobs inherit."""
    return _base_environment() | {
        # Ray listens on loopback alone, as it does by default on other systems.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        # Time for a stopped job to save itself.
        "RAY_JOB_STOP_WAIT_TIME_S": f"{STOP_JOB_TIMEOUT_S:.0f}",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Each job has a runtime environment, so it cannot use workers that Ray started before it.
        "RAY_prestart_worker_first_driver": "0",
        "MLFLOW_TRACKING_URI": tracking_uri,
        TOKEN_FILE: str(token),
        "SUMGRAD_OUTPUT": str(folder / "jobs"),
        "SUMGRAD_PYTHON": sys.executable,
    }


def _base_environment() -> dict[str, str]:
    """Return this process's environment without the token of another cluster."""
    return {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}


def free_ports(count: int) -> list[int]:
    """Return different ports where no program listens, outside of Ray's range for workers."""
    ports: list[int] = []
    with ExitStack() as listening:
        while len(ports) < count:
            server = listening.enter_context(socket.create_server((HOST, 0)))
            if (port := server.getsockname()[1]) not in RAY_WORKER_PORTS:
                ports.append(port)
    return ports
