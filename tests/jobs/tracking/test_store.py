import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.errors import TrackingError
from jobs.tracking import check_reachable, open_store, ui_command
from jobs.tracking.location import SQLITE
from jobs.tracking.store import first_line

OPEN = """
import sys
from jobs.tracking import open_store
store = open_store(sys.argv[1])
from mlflow.telemetry import get_telemetry_client
assert get_telemetry_client() is None
from mlflow.tracking import is_tracking_uri_set
assert not is_tracking_uri_set()
"""


def test_two_processes_may_create_one_database_quietly(tmp_path: Path) -> None:
    # MLflow keeps telemetry off under pytest by itself, which is not what is tested here.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "CI"))}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, f"{SQLITE}{tmp_path}/new.db"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    output = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], output
    assert output == ["", ""]


def test_importing_it_needs_nothing_heavy() -> None:
    code = (
        "import sys, jobs.tracking, jobs.saved_model;"
        "print({'mlflow', 'pydantic', 'pyarrow', 'ray', 'pandas'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="no folder"):
        open_store(f"{SQLITE}{tmp_path}/no/x.db")


def test_a_file_that_is_no_database_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("not a database, but long enough to be looked at" * 30)
    with pytest.raises(TrackingError, match="cannot be used") as caught:
        open_store(f"{SQLITE}{tmp_path}/x.db")
    assert "\n" not in str(caught.value)


def test_an_error_is_told_in_one_short_line_without_credentials() -> None:
    error = OSError(f"POST http://me:p@ss@host/x failed {'again ' * 99}\nand more")
    line = first_line(error)
    assert line.startswith("POST http://***@host/x failed again")
    assert len(line) <= 200
    assert first_line(OSError()) == "OSError"


def test_a_server_needs_no_user_interface_started() -> None:
    ui = ui_command("http://me:pw@tracking:5000")
    assert (ui.address, ui.command) == ("http://***@tracking:5000", ())


def test_a_users_own_modules_do_not_break_the_user_interface(uri: str, tmp_path: Path) -> None:
    for name in ("model", "jobs", "types", "packaging"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ui = ui_command(uri, port)
    assert uri not in ui.command
    with subprocess.Popen(
        ui.command,
        env={**os.environ, **ui.environment},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        try:
            assert answers(ui.address, server)
        finally:
            server.terminate()
            output = server.communicate(timeout=30)[0]
    assert "the wrong module" not in output


def answers(address: str, server: "subprocess.Popen[str]") -> bool:
    """Whether the server comes up while its process lives."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(TrackingError):
            check_reachable(address)
            return True
        time.sleep(0.2)
    return False
