"""MLflow's server with a login: every address is closed to clients without the token."""

import base64
import json
import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from sumgrad.jobs.service.local.mlflow_server import SETTINGS_FILE, USERS_FILE, main
from sumgrad.jobs.support.error_report import run_guarded
from tests.integration.command_line import Finished, Folder
from tests.integration.fork_server import ForkedProcess
from tests.integration.mlflow_proxy import MlflowProxy, mlflow_server

TOKEN = secrets.token_hex(32)
ADA = ("ada", "hers-and-long-enough")


@pytest.fixture(scope="module")
def server_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the token and, in `state`, what the server keeps."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "state").mkdir()
    write_token(folder, TOKEN)
    return folder


def write_token(folder: Path, token: str) -> None:
    path = folder / "token"
    path.write_text(token)
    path.chmod(0o600)


@pytest.fixture(scope="module")
def server(server_dir: Path) -> Iterator[int]:
    with mlflow_server(server_dir / "state", server_dir / "token") as port:
        yield port


def code(
    port: int,
    path: str,
    login: tuple[str, str] | None = None,
    *,
    method: str = "GET",
    body: Mapping[str, Any] | None = None,
) -> int:
    """Return the HTTP status of the answer to a request."""
    headers = {"Content-Type": "application/json"}
    if login is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(":".join(login).encode()).decode()
    data = json.dumps(body).encode() if body is not None else None
    request = Request(f"http://127.0.0.1:{port}{path}", data, headers, method=method)
    try:
        with urlopen(request, timeout=60) as response:
            return int(response.status)
    except HTTPError as refusal:
        with refusal:
            return refusal.code


EXPERIMENT = "/api/2.0/mlflow/experiments/get?experiment_id=0"
CREATE_USER = "/api/2.0/mlflow/users/create"
#: Health and the looks of the login page are public.
OPEN = re.compile(r"/health|/static-files/.*|/favicon.ico|/(ajax-)?api/3.0/mlflow/server-info")
#: A method and a path, and the login that is sent.
Question = tuple[tuple[str, str], tuple[str, str] | None]


def routes(folder: Path) -> list[tuple[str, str]]:
    """Return every method and path, with a value for each parameter of a path."""
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    program = ("tests.integration.mlflow_routes", "main")
    ForkedProcess(program, (), (), folder, environment).wait(60)
    found = json.loads((folder / "routes.json").read_text())
    return [(method, re.sub(r"<[^>]*>|\{[^}]*\}", "1", path)) for method, path in found]


def test_every_route_is_closed_without_a_login(server: int, tmp_path: Path) -> None:
    asked = [(m, path) for m, path in routes(tmp_path) if m not in ("HEAD", "OPTIONS")]
    assert len(asked) > 200
    parts = ("/graphql", "/mlflow-artifacts/", "/ajax-api/", "/v1/traces", "/gateway/", "/signup")
    for part in parts:
        assert any(part in path for _, path in asked), part
    assert ("GET", "/") in asked

    closed = [(m, path) for m, path in asked if not OPEN.fullmatch(path)]
    wrong = (("sumgrad", "0" * 64), ("admin", "password1234"))
    questions: list[Question] = [(route, None) for route in closed]
    # A wrong password costs the server a tenth of a second, each time.
    questions += [(route, login) for route in closed[::40] for login in wrong]

    def answer(question: Question) -> int:
        (method, path), login = question
        return code(server, path, login, method=method)

    with ThreadPoolExecutor(4) as several:
        found = dict(zip(questions, several.map(answer, questions), strict=True))
    assert {question: found[question] for question in questions if found[question] != 401} == {}


def test_health_is_public(server: int) -> None:
    assert code(server, "/health") == 200
    assert code(server, "/health/../api/2.0/mlflow/experiments/get?experiment_id=0") in (401, 404)
    assert code(server, "/static-files/%2e%2e/%2e%2e/users.db") == 404


def test_the_token_opens_pages_and_apis(server: int) -> None:
    for path in (EXPERIMENT, EXPERIMENT.replace("/api", "/ajax-api"), "/", "/version"):
        assert code(server, path, ("sumgrad", TOKEN)) == 200
    assert code(server, EXPERIMENT, ("admin", TOKEN)) == 401


def test_other_users_of_the_machine_cannot_read_the_token(server: int, server_dir: Path) -> None:
    state = server_dir / "state"
    for file in (state / USERS_FILE, state / SETTINGS_FILE, state / "mlflow.db"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not [file for file in state.rglob("*") if file.is_file() and holds_token(file)]


def holds_token(file: Path) -> bool:
    return TOKEN.encode() in file.read_bytes()


@pytest.fixture
def with_token(folder: Folder, server_dir: Path, server: int, tmp_path: Path) -> Folder:
    """A user with the token in a file, and no cluster."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        "HOME": str(home),
        "SUMGRAD_CONFIG": str(home / "clusters.yaml"),
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{server}",
        "SUMGRAD_TRACKING_TOKEN_FILE": str(server_dir / "token"),
    }
    return replace(folder, environment=environment)


def checked(done: Finished) -> Finished:
    """Check that a command has not printed the token."""
    assert TOKEN not in done.out + done.err
    return done


def test_a_run_is_tracked_and_its_model_fetched(
    with_token: Folder, server_dir: Path, server: int
) -> None:
    done = checked(with_token.sumgrad("train", "flowers.yaml", "--json", "--debug"))
    assert done.code == 0, done.err
    assert done.result["tracking_uri"] == f"http://127.0.0.1:{server}"
    uri = ("--tracking-uri", f"http://127.0.0.1:{server}")
    evaluated = checked(with_token.sumgrad("evaluate", done.result["run_id"], "flowers.csv", *uri))
    assert evaluated.code == 0, evaluated.err
    shown = checked(with_token.sumgrad("config", "show", "flowers.yaml"))
    assert "uri: http://127.0.0.1" in shown.out
    assert checked(with_token.sumgrad("sync")).code == 0
    ui = checked(with_token.sumgrad("ui", *uri))
    assert f"the token in {server_dir / 'token'}" in ui.out
    state = [file for top in (with_token.path, server_dir / "state") for file in top.rglob("*")]
    assert not [file for file in state if file.is_file() and holds_token(file)]


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"SUMGRAD_TRACKING_TOKEN_FILE": ""}, "requires a login, and none is configured"),
        ({"SUMGRAD_TRACKING_TOKEN_FILE": "wrong"}, "rejects the token in wrong"),
        ({"SUMGRAD_TRACKING_TOKEN_FILE": "missing"}, "missing (SUMGRAD_TRACKING_TOKEN_FILE)"),
        (
            {
                "SUMGRAD_TRACKING_TOKEN_FILE": "",
                "MLFLOW_TRACKING_USERNAME": "ada",
                "MLFLOW_TRACKING_PASSWORD": "guessed",
            },
            "rejects the user and password",
        ),
    ],
)
def test_a_missing_or_wrong_token_ends_a_command_with_one_line(
    with_token: Folder, server: int, environment: dict[str, str], text: str
) -> None:
    (with_token.path / "wrong").write_text("0" * 64)
    (with_token.path / "wrong").chmod(0o600)
    refused_user = replace(with_token, environment={**with_token.environment, **environment})
    uri = ("--tracking-uri", f"http://127.0.0.1:{server}")
    for arguments in (("train", "flowers.yaml"), ("evaluate", "0123456789", "flowers.csv", *uri)):
        refused = refused_user.sumgrad(*arguments)
        assert refused.code == 3, refused.err
        (line,) = [each for each in refused.err.splitlines() if each.startswith("error: ")]
        assert text in line
        assert "Traceback" not in refused.err
        assert "epoch " not in refused.out
    assert not list((with_token.path / "runs").iterdir()), "it is refused before its first step"


def test_a_user_added_by_the_administrator_has_fewer_rights(
    with_token: Folder, server: int
) -> None:
    body = dict(zip(("username", "password"), ADA, strict=True))
    assert code(server, CREATE_USER, method="POST", body=body) == 401
    assert code(server, CREATE_USER, ("sumgrad", TOKEN), method="POST", body=body) == 200
    assert code(server, CREATE_USER, ADA, method="POST", body=body) == 403
    assert code(server, EXPERIMENT, ADA) == 200
    own = {
        "SUMGRAD_TRACKING_TOKEN_FILE": "",
        "MLFLOW_TRACKING_USERNAME": ADA[0],
        "MLFLOW_TRACKING_PASSWORD": ADA[1],
    }
    ada = replace(with_token, environment={**with_token.environment, **own})
    made = with_token.sumgrad("train", "flowers.yaml", "--set", "tracking.experiment=ours")
    assert made.code == 0, made.err
    refused = ada.sumgrad("train", "flowers.yaml", "--set", "tracking.experiment=ours")
    assert refused.code == 3
    assert "answers 403: this user may not do that" in refused.err
    hers = ada.sumgrad("train", "flowers.yaml", "--set", "tracking.experiment=hers", "--json")
    assert hers.code == 0, hers.err


def test_a_new_token_holds_after_a_restart(database: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    shutil.copy(database, state / "mlflow.db")
    write_token(tmp_path, "the-first-one-of-all")
    with mlflow_server(state, tmp_path / "token") as port:
        first = ("sumgrad", "the-first-one-of-all")
        body = dict(zip(("username", "password"), ADA, strict=True))
        assert code(port, CREATE_USER, first, method="POST", body=body) == 200
    write_token(tmp_path, "the-next-one-of-all")
    with mlflow_server(state, tmp_path / "token") as port:
        assert code(port, EXPERIMENT, first) == 401
        assert code(port, EXPERIMENT, ("sumgrad", "the-next-one-of-all")) == 200
        assert code(port, EXPERIMENT, ADA) == 200, "other users stay"


ARGUMENTS = ("token", ".", "--port", "1")


def check_not_started(folder: Path, code: int, err: str) -> None:
    """Check that the server has ended with one line, and has created no file."""
    assert code == 2
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert "too-short" not in err
    assert not (folder / USERS_FILE).exists()


@pytest.mark.parametrize("content", ["", None])
def test_the_server_does_not_start_without_a_token(
    content: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if content is not None:
        write_token(tmp_path, content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mlflow_server", *ARGUMENTS])
    code = run_guarded(main, debug=False)
    check_not_started(tmp_path, code, capsys.readouterr().err)


def test_the_servers_process_does_not_start_with_a_short_token(tmp_path: Path) -> None:
    write_token(tmp_path, "too-short")
    done = subprocess.run(
        [sys.executable, "-P", "-m", main.__module__, *ARGUMENTS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    check_not_started(tmp_path, done.returncode, done.stderr)


def test_a_token_that_expires_during_a_run_does_not_fail_it(
    with_token: Folder, server: int
) -> None:
    proxy = MlflowProxy(server)
    proxy.set_state("open")
    environment = {**with_token.environment, "MLFLOW_TRACKING_URI": proxy.uri}
    through = replace(with_token, environment=environment)
    process = through.start("train", "flowers.yaml", pauses=[4])
    # The first batch is part of the creation of the run.
    proxy.wait_for("runs/log-batch", "open", 2)
    proxy.set_state("unauthorized")
    through.release(4)
    out, err = process.communicate(timeout=120)
    done = checked(Finished(process.returncode, out, err))
    assert done.code == 0, done.err
    assert f"the MLflow server at {proxy.uri} rejects the token in" in done.out + done.err
    assert "sumgrad sync" in done.out
    early = checked(through.sumgrad("sync"))
    assert early.code == 3
    assert "rejects the token in" in early.out + early.err
    proxy.set_state("open")
    late = checked(through.sumgrad("sync"))
    proxy.set_state("down")
    assert late.code == 0, late.out
