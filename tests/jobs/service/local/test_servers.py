"""What is started on this machine: on loopback alone, with a token that nobody reads there."""

import importlib.util
import socket
from pathlib import Path

import pytest

from sumgrad.jobs.errors import ServiceUnreachable
from sumgrad.jobs.service.local import servers as local_servers
from sumgrad.jobs.service.local.servers import check_installed, check_port_free
from sumgrad.jobs.service.versions import INSTALL_HINT

URI = "http://127.0.0.1:5000"


def test_ray_listens_on_loopback() -> None:
    ray = local_servers.ray_command(8265, 3)
    assert ray[ray.index("--dashboard-host") + 1] == "127.0.0.1"
    assert ray[ray.index("--num-cpus") + 1] == "3"
    assert "--num-cpus" not in local_servers.ray_command(8265, None)


def test_mlflow_listens_on_loopback_and_reads_its_token_from_a_file(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cr3t-of-the-cluster")
    mlflow = local_servers.mlflow_command(tmp_path, token, 5000)
    assert mlflow[mlflow.index("--host") + 1] == "127.0.0.1"
    assert str(token) in mlflow
    environment = local_servers.ray_environment(tmp_path, token, URI)
    told = [*mlflow, *environment.values(), *local_servers.mlflow_environment().values()]
    assert "s3cr3t" not in " ".join(told)


def test_jobs_are_told_where_the_tokens_are(tmp_path: Path) -> None:
    token = tmp_path / "token"
    environment = local_servers.ray_environment(tmp_path, token, URI)
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN_PATH"] == str(token)
    assert environment["MLFLOW_TRACKING_URI"] == URI
    assert environment["SUMGRAD_TRACKING_TOKEN_FILE"] == str(token)


def test_a_token_of_another_cluster_is_not_handed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-another-cluster")
    for environment in (
        local_servers.mlflow_environment(),
        local_servers.ray_environment(tmp_path, tmp_path / "token", URI),
    ):
        assert "of-another-cluster" not in environment.values()


def test_free_ports_are_different_ones() -> None:
    assert len(set(local_servers.free_ports(3))) == 3


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(ServiceUnreachable, match=f"port {number}, for MLflow, .* in use"):
            check_port_free("MLflow", number)
    check_port_free("MLflow", number)


@pytest.mark.parametrize(
    ("lacking", "what"), [("aiohttp_cors", "dashboard"), ("flask_wtf", "MLflow needs")]
)
def test_what_is_not_installed_is_told(
    lacking: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_installed()
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *more: None if name == lacking else find(name, *more),
    )
    with pytest.raises(ServiceUnreachable, match=f"{what}.* is not installed here") as caught:
        check_installed()
    assert caught.value.hint == INSTALL_HINT
