"""Checks of MLflow stores: real servers on loopback, and databases."""

import socket
from pathlib import Path

import pytest

from sumgrad.jobs.config.credentials import Credentials
from sumgrad.jobs.service import checks
from sumgrad.jobs.service.checks import check_mlflow
from tests.jobs.service.fakes import Answer, free_port, raw_socket_server, site

EXPERIMENT = "/api/2.0/mlflow/experiments/get?experiment_id=0"
SEARCH = "/api/2.0/mlflow/experiments/search"
INVALID_HOST = "Invalid Host header - possible DNS rebinding attack detected"


def mlflow_problem(uri: str, login: Credentials | None = None) -> str | None:
    """Return the message and the hint of a failed check; None if it did not fail."""
    check, _ = check_mlflow("MLflow", uri, login)
    return None if check.status == "ok" else f"{check.message} {check.hint}".strip()


def problem(code: int, body: str = "", *, prefix: str = "", user: str = "") -> str | None:
    answers = {f"{prefix}/health": Answer(), f"{prefix}{EXPERIMENT}": Answer(code, body)}
    with site(answers) as server:
        uri = server.address.replace("http://", f"http://{user}") + prefix
        found = mlflow_problem(uri)
        assert [asked.path for asked in server.asked] == list(answers)
    return found


@pytest.mark.parametrize("code", [200, 404])
def test_a_usable_server_has_no_problem(code: int) -> None:
    assert problem(code, "{}") is None
    assert problem(code, "{}", prefix="/mlflow") is None


def test_the_login_is_accepted_and_only_sent_where_needed(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t0ken-of-the-lab")
    token.chmod(0o600)
    answers = {"/health": Answer(), EXPERIMENT: Answer(401), SEARCH: Answer(body="{}")}
    with site(answers) as server:
        login = Credentials(server.address, token, "test")
        check, requires_login = check_mlflow("MLflow", server.address, login)
        _, anonymous, _, search = server.asked
    assert (check.status, requires_login) == ("ok", True)
    assert search.headers["Authorization"].startswith("Basic ")
    assert "Authorization" not in anonymous.headers


@pytest.mark.parametrize(
    ("code", "text"), [(401, "requires a login, and none is configured"), (403, "may not do that")]
)
def test_a_refused_login_is_a_problem(code: int, text: str) -> None:
    with site({"/health": Answer(), EXPERIMENT: Answer(401), SEARCH: Answer(code)}) as server:
        found = mlflow_problem(server.address)
    assert found is not None
    assert f"at {server.address} " in found
    assert text in found
    assert ("--tracking-token-file" in found) is (code == 401), "and what to do"


@pytest.mark.parametrize("code", [200, 404])
def test_a_server_without_a_login_does_not_require_one(code: int) -> None:
    with site({"/health": Answer(), EXPERIMENT: Answer(code)}) as server:
        check, requires_login = check_mlflow("MLflow", server.address)
    assert (check.status, requires_login) == ("ok", False)
    assert check.message == f"{server.address} answers"


def test_a_host_that_the_server_does_not_allow_is_named_without_secrets() -> None:
    found = problem(403, INVALID_HOST, user="me:s3cr3t@")
    assert found is not None
    assert "rejects requests to '127.0.0.1:" in found
    assert "MLFLOW_SERVER_ALLOWED_HOSTS" in found
    assert "s3cr3t" not in found
    assert "me" not in found.partition("http://")[2].partition("'")[0].replace("***", "")[:4]


@pytest.mark.parametrize("code", [403, 500, 502, 429])
def test_other_statuses_are_reported(code: int) -> None:
    found = problem(code, "Permission denied")
    assert found is not None
    assert found.endswith(f" answers {code}")
    assert "ALLOWED_HOSTS" not in found


def test_an_unhealthy_server_is_a_problem() -> None:
    with site({"/health": Answer(503)}) as server:
        found = mlflow_problem(server.address)
    assert found is not None
    assert "answers 503 to /health" in found


def test_an_unreachable_server_is_reported_without_secrets() -> None:
    found = mlflow_problem(f"http://me:s3cr3t@127.0.0.1:{free_port()}")
    assert found is not None
    assert "does not answer" in found
    assert "s3cr3t" not in found


def garbage_after_health(connection: socket.socket) -> None:
    """Answer the health check, and then speak another protocol."""
    request = connection.recv(4096)
    if b"/health" in request:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    else:
        connection.sendall(b"220 smtp.example ESMTP\r\n")


def test_a_program_with_another_protocol_is_a_problem() -> None:
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


def test_a_silent_server_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PROBE_SECONDS", 0.2)
    with raw_socket_server(silent_after_health) as address:
        found = mlflow_problem(address)
    assert found is not None
    assert "no answer in" in found


@pytest.mark.parametrize(
    "uri", ["./mlruns", "file:///mlruns", "http://[x", "http://h:0", "http://h:x", "sqlite://"]
)
def test_an_invalid_address_is_a_problem(uri: str) -> None:
    assert mlflow_problem(uri) is not None


def test_a_database_needs_an_existing_folder(tmp_path: Path) -> None:
    assert mlflow_problem(f"sqlite:///{tmp_path}/mlflow.db") is None
    assert mlflow_problem("sqlite:///mlflow.db") is None
    found = mlflow_problem(f"sqlite:///{tmp_path}/gone/mlflow.db")
    assert found is not None
    assert "does not exist" in found
