"""A local Ray instance listens on loopback, requires a token and keeps its files private."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sumgrad.cluster.ray_backend.session import ray_session

pytestmark = pytest.mark.ray

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
Addresses = set[tuple[str, int]]

_ASK = """
import sys
from ray._raylet import GcsClient
print(len(GcsClient(address=sys.argv[1]).internal_kv_keys(b"", namespace=None, timeout=10)))
"""


def listening_addresses() -> Addresses:
    """Return the addresses on which this process and its children listen for TCP."""
    own = psutil.Process()
    return {
        (connection.laddr.ip, connection.laddr.port)
        for process in (own, *own.children(recursive=True))
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.fixture(scope="module")
def addresses() -> Iterator[Addresses]:
    """The addresses on which a local instance listens."""
    before = listening_addresses()
    with ray_session("local", 1):
        yield listening_addresses() - before


def test_it_listens_on_loopback_alone(addresses: Addresses) -> None:
    assert len(addresses) > 3, "Ray has a handful of ports"
    assert {host for host, _ in addresses} <= LOOPBACK


def test_it_runs_no_daemon_that_jobs_do_not_use(addresses: Addresses) -> None:
    commands = " ".join(
        argument for child in psutil.Process().children() for argument in child.cmdline()
    )
    assert "raylet" in commands
    assert not [
        name for name in ("monitor.py", "log_monitor.py", "dashboard.py") if f"/{name}" in commands
    ]


def test_its_files_are_in_a_private_folder(addresses: Addresses) -> None:
    """Ray's own folder, with sockets and the code of jobs, is writable by every user."""
    from ray._private import worker

    node: Any = worker._global_node
    session = Path(node.get_session_dir_path())
    closed = [folder for folder in session.parents if folder.stat().st_mode & 0o077 == 0]
    assert any(folder.name.startswith("sumgrad-") for folder in closed)


@pytest.mark.parametrize("knows_token", [True, False])
def test_a_local_ray_requires_its_token(addresses: Addresses, knows_token: bool) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address
    environment = os.environ | {"RAY_AUTH_MODE": "token"}
    if not knows_token:
        environment["RAY_AUTH_TOKEN"] = "x" * 64
    asked = subprocess.run(
        [sys.executable, "-c", _ASK, address],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (asked.returncode == 0) is knows_token, asked.stderr
    assert ("InvalidAuthToken" in asked.stderr or "auth" in asked.stderr) is not knows_token
