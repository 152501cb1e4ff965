import base64
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sumgrad.jobs.config.tracking_uri import SQLITE
from sumgrad.jobs.errors import TrackingError, TrackingUnreachable
from sumgrad.jobs.tracking import store as store_module
from sumgrad.jobs.tracking.store import is_login_refused, open_store
from tests.jobs.service.fakes import Answer, free_port, raw_socket_server, site

OPEN = """
import sys
from sumgrad.jobs.tracking.store import open_store
store = open_store(sys.argv[1])
from mlflow.telemetry import get_telemetry_client
assert get_telemetry_client() is None
from mlflow.tracking import is_tracking_uri_set
assert not is_tracking_uri_set()
"""


def test_two_processes_create_one_database_without_output(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Under pytest MLflow itself disables its telemetry.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "CI"))}
    uri = f"{SQLITE}{tmp_path}/new.db"
    with subprocess.Popen(
        [sys.executable, "-c", OPEN, uri],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as process:
        # The other process has locked the database, or is about to.
        while not (tmp_path / ".new.db.lock").exists():
            assert process.poll() is None
            time.sleep(0.01)
        open_store(uri)
        output = process.communicate(timeout=60)[0]
    assert (process.returncode, output) == (0, "")
    assert capfd.readouterr() == ("", "")


HOLD = """
import fcntl, sys, time
with open(sys.argv[1], "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_database_that_a_frozen_process_has_locked_is_unreachable(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / ".mlflow.db.lock"
    monkeypatch.setattr(store_module, "LOCK_TIMEOUT_S", 0.5)
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "locked\n"
            holder.send_signal(signal.SIGSTOP)
            with pytest.raises(TrackingUnreachable, match=f"has locked {lock} for 0.5 s") as caught:
                open_store(uri)
            assert f"fuser {lock}" in caught.value.hint
            monkeypatch.setattr(store_module, "LOCK_TIMEOUT_S", 30.0)
            # The lock is released in time.
            threading.Timer(0.5, holder.kill).start()
            open_store(uri)
        finally:
            holder.kill()


def test_importing_the_package_needs_no_slow_modules() -> None:
    code = (
        "import sys, sumgrad.jobs.tracking, sumgrad.jobs.artifacts.saved_model;"
        "print({'mlflow', 'pydantic', 'pyarrow', 'ray', 'pandas'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="does not exist"):
        open_store(f"{SQLITE}{tmp_path}/no/x.db")


def test_a_file_that_is_no_database_is_refused_on_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("not a database, but long enough to be looked at" * 30)
    with pytest.raises(TrackingError, match="cannot be used") as caught:
        open_store(f"{SQLITE}{tmp_path}/x.db")
    assert "\n" not in str(caught.value)


REQUEST = "/api/2.0/mlflow/experiments/get?experiment_id=0"
LOGIN = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "päss"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment without a login or a cluster."""
    for name in (*LOGIN, "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SUMGRAD_CONFIG", str(tmp_path / "clusters.yaml"))
    return monkeypatch


@pytest.mark.parametrize(
    ("code", "is_refused"), [(200, False), (404, False), (500, False), (401, True), (403, True)]
)
def test_a_login_is_refused_by_401_and_403(
    environment: pytest.MonkeyPatch, code: int, is_refused: bool
) -> None:
    with site({REQUEST: Answer(code)}) as server:
        assert is_login_refused(server.address) is is_refused
        (asked,) = server.asked
    assert "Authorization" not in asked.headers


@pytest.mark.parametrize(
    ("variables", "user", "sent"),
    [
        ({}, "ada:s%20e@", "Basic " + base64.b64encode(b"ada:s e").decode()),
        (LOGIN, "", "Basic " + base64.b64encode("me:päss".encode()).decode()),
        ({"MLFLOW_TRACKING_TOKEN": "t0ken"}, "", "Bearer t0ken"),
        ({"SUMGRAD_TRACKING_TOKEN_FILE": "token"}, "", "Basic c3VtZ3JhZDp0MGtlbi1vZi10aGUtbGFi"),
    ],
)
def test_the_configured_login_is_sent(
    environment: pytest.MonkeyPatch,
    tmp_path: Path,
    variables: dict[str, str],
    user: str,
    sent: str,
) -> None:
    (tmp_path / "token").write_text("t0ken-of-the-lab")
    (tmp_path / "token").chmod(0o600)
    environment.chdir(tmp_path)
    for name, value in variables.items():
        environment.setenv(name, value)
    with site({REQUEST: Answer()}) as server:
        environment.setenv("MLFLOW_TRACKING_URI", server.address)
        assert not is_login_refused(server.address.replace("//", f"//{user}"))
        assert server.asked[0].headers["Authorization"] == sent


def test_a_token_that_cannot_be_read_is_left_to_mlflows_client(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    environment.setenv("MLFLOW_TRACKING_URI", uri)
    environment.setenv("SUMGRAD_TRACKING_TOKEN_FILE", str(tmp_path / "missing"))
    assert is_login_refused(uri)


def test_a_server_that_is_away_or_silent_refuses_no_login(
    environment: pytest.MonkeyPatch,
) -> None:
    assert not is_login_refused(f"http://127.0.0.1:{free_port()}")
    assert not is_login_refused("sqlite:////x.db")
    environment.setattr(store_module, "PROBE_SECONDS", 0.2)

    def wait_for_end(connection: socket.socket) -> None:
        while connection.recv(1000):
            pass

    with raw_socket_server(wait_for_end) as silent:
        assert not is_login_refused(silent)
