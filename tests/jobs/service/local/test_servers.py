"""Ports, command lines and environments of the servers of ``sumgrad cluster up``."""

import importlib.util
import socket
from pathlib import Path

import pytest

from sumgrad.jobs.errors import ClusterConfigError
from sumgrad.jobs.service.local import servers
from sumgrad.jobs.service.local.servers import check_installed, check_port_free, check_ports
from sumgrad.jobs.service.versions import INSTALL_HINT
from tests.jobs.service.fakes import free_port

URI = "http://127.0.0.1:5000"


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_ray_listens_on_loopback_with_the_requested_cpus() -> None:
    command = servers.ray_command(8265, 3)
    assert option(command, "--dashboard-host") == "127.0.0.1"
    assert option(command, "--num-cpus") == "3"
    assert "--num-cpus" not in servers.ray_command(8265, None)


def test_the_token_reaches_servers_by_its_file_alone(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cr3t-of-the-cluster")
    mlflow = servers.mlflow_command(tmp_path, token, 5000)
    assert option(mlflow, "--host") == "127.0.0.1"
    assert str(token) in mlflow
    ray = servers.ray_environment(tmp_path, token, URI)
    assert ray["RAY_AUTH_MODE"] == "token"
    assert ray["RAY_AUTH_TOKEN_PATH"] == ray["SUMGRAD_TRACKING_TOKEN_FILE"] == str(token)
    assert ray["MLFLOW_TRACKING_URI"] == URI
    assert "s3cr3t" not in " ".join(
        [*mlflow, *ray.values(), *servers.mlflow_environment().values()]
    )


def test_ray_starts_no_processes_that_jobs_do_not_use(tmp_path: Path) -> None:
    ray = servers.ray_environment(tmp_path, tmp_path / "token", URI)
    assert ray["RAY_prestart_worker_first_driver"] == "0"
    assert option(servers.ray_command(8265, None), "--include-log-monitor") == "false"


def test_the_token_of_another_cluster_is_not_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-another-cluster")
    for environment in (
        servers.mlflow_environment(),
        servers.ray_environment(tmp_path, tmp_path / "token", URI),
    ):
        assert "of-another-cluster" not in environment.values()


def test_free_ports_are_different_and_outside_of_rays_range(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, *_ = servers.free_ports(3)
    monkeypatch.setattr(servers, "RAY_WORKER_PORTS", range(first, first + 1))
    ports = servers.free_ports(50)
    assert len(set(ports)) == 50
    assert first not in ports


def test_a_port_that_ray_gives_to_a_worker_is_refused() -> None:
    for ports in ((10500, free_port()), (free_port(), 10500)):
        with pytest.raises(ClusterConfigError, match=r"port 10500, for .* for its worker"):
            check_ports(*ports)


def test_a_port_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(ClusterConfigError, match=f"port {number}, for MLflow, .* in use"):
            check_ports(free_port(), number)
        with pytest.raises(ClusterConfigError, match=f"port {number}, for Ray's dashboard"):
            check_ports(number, free_port())
    check_port_free("MLflow", number)


@pytest.mark.parametrize("port", [10002, 15000, 19999])
def test_a_dashboard_port_in_rays_range_for_workers_is_refused_with_the_range(port: int) -> None:
    with pytest.raises(ClusterConfigError, match=f"port {port}, .* ports 10002 to 19999") as caught:
        check_ports(port, free_port())
    assert "--port" in caught.value.hint


def test_one_port_for_both_servers_is_refused() -> None:
    with pytest.raises(ClusterConfigError, match="cannot both have port 5000"):
        check_ports(5000, 5000)


def test_the_range_is_rays_own() -> None:
    command = servers.ray_command(8265, None)
    assert option(command, "--min-worker-port") == "10002"
    assert option(command, "--max-worker-port") == "19999"


@pytest.mark.parametrize(
    ("module", "part"), [("aiohttp_cors", "dashboard"), ("flask_wtf", "MLflow needs")]
)
def test_a_missing_part_is_named(module: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed()
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *more: None if name == module else find(name, *more),
    )
    with pytest.raises(ClusterConfigError, match=f"{part}.* is not installed here") as caught:
        check_installed()
    assert caught.value.hint == INSTALL_HINT
