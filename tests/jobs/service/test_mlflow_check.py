"""Whether an MLflow server takes requests, asked of real servers on loopback."""

import socket
from pathlib import Path

import pytest

from sumgrad.jobs.config.credentials import Credentials
from sumgrad.jobs.service import mlflow_check
from sumgrad.jobs.service.mlflow_check import mlflow_problem, requires_login
from tests.jobs.service.stand_ins import Answer, free_port, raw_socket_server, site

EXPERIMENT = "/api/2.0/mlflow/experiments/get?experiment_id=0"
SEARCH = "/api/2.0/mlflow/experiments/search"
INVALID_HOST = "Invalid Host header - possible DNS rebinding attack detected"


def problem(code: int, body: str = "", *, prefix: str = "", user: str = "") -> str | None:
    answers = {f"{prefix}/health": Answer(), f"{prefix}{EXPERIMENT}": Answer(code, body)}
    with site(answers) as server:
        uri = server.address.replace("http://", f"http://{user}") + prefix
        found = mlflow_problem(uri)
        assert [asked.path for asked in server.asked] == list(answers)
    return found


@pytest.mark.parametrize("code", [200, 404])
def test_a_server_that_can_be_used(code: int) -> None:
    assert problem(code, "{}") is None
    assert problem(code, "{}", prefix="/mlflow") is None


def test_a_server_that_takes_our_login(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t0ken-of-the-lab")
    token.chmod(0o600)
    answers = {"/health": Answer(), EXPERIMENT: Answer(401), SEARCH: Answer(body="{}")}
    with site(answers) as server:
        assert mlflow_problem(server.address, Credentials(server.address, token, "test")) is None
        assert requires_login(server.address)
        *_, search, stranger = server.asked
    assert search.headers["Authorization"].startswith("Basic ")
    assert "Authorization" not in stranger.headers


@pytest.mark.parametrize(
    ("code", "text"), [(401, "requires a login, and none is configured"), (403, "may not do that")]
)
def test_a_server_that_takes_no_login_of_ours(code: int, text: str) -> None:
    with site({"/health": Answer(), EXPERIMENT: Answer(401), SEARCH: Answer(code)}) as server:
        found = mlflow_problem(server.address)
    assert found is not None
    assert f"at {server.address} " in found
    assert text in found
    assert ("--tracking-token-file" in found) is (code == 401), "and what to do"


@pytest.mark.parametrize("code", [200, 404, 500])
def test_a_server_that_asks_nobody_for_a_login(code: int) -> None:
    with site({EXPERIMENT: Answer(code)}) as server:
        assert not requires_login(server.address)


def test_a_server_that_does_not_know_its_own_name() -> None:
    found = problem(403, INVALID_HOST, user="me:s3cr3t@")
    assert found is not None
    assert "does not admit requests to '127.0.0.1:" in found
    assert "MLFLOW_SERVER_ALLOWED_HOSTS" in found
    assert "s3cr3t" not in found
    assert "me" not in found.partition("http://")[2].partition("'")[0].replace("***", "")[:4]


@pytest.mark.parametrize("code", [403, 500, 502, 429])
def test_a_server_that_refuses_for_other_reasons(code: int) -> None:
    found = problem(code, "Permission denied")
    assert found is not None
    assert found.endswith(f" answers {code}")
    assert "ALLOWED_HOSTS" not in found


def test_a_server_that_is_not_well() -> None:
    with site({"/health": Answer(503)}) as server:
        found = mlflow_problem(server.address)
    assert found is not None
    assert "answers 503 to /health" in found


def test_nobody_there() -> None:
    found = mlflow_problem(f"http://me:s3cr3t@127.0.0.1:{free_port()}")
    assert found is not None
    assert "does not answer" in found
    assert "s3cr3t" not in found


def garbage_after_health(connection: socket.socket) -> None:
    """What is well, and then speaks another language."""
    request = connection.recv(4096)
    if b"/health" in request:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    else:
        connection.sendall(b"220 smtp.example ESMTP\r\n")


def test_somebody_else_there() -> None:
    with raw_socket_server(lambda connection: connection.sendall(b"220 smtp ESMTP\r\n")) as address:
        found = mlflow_problem(address)
    assert found is not None
    assert "does not answer" in found
    with raw_socket_server(garbage_after_health) as address:
        found = mlflow_problem(address)
    assert found is not None
    assert "does not answer" in found


def silent_after_health(connection: socket.socket) -> None:
    if b"/health" in connection.recv(4096):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    else:
        connection.recv(1)


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_check, "PROBE_SECONDS", 0.2)
    with raw_socket_server(silent_after_health) as address:
        found = mlflow_problem(address)
    assert found is not None
    assert "no answer in" in found


@pytest.mark.parametrize(
    "uri", ["./mlruns", "file:///mlruns", "http://[x", "http://h:0", "http://h:x", "sqlite://"]
)
def test_what_is_no_store(uri: str) -> None:
    assert mlflow_problem(uri) is not None


def test_a_database(tmp_path: Path) -> None:
    assert mlflow_problem(f"sqlite:///{tmp_path}/mlflow.db") is None
    assert mlflow_problem("sqlite:///mlflow.db") is None
    found = mlflow_problem(f"sqlite:///{tmp_path}/gone/mlflow.db")
    assert found is not None
    assert "does not exist" in found
