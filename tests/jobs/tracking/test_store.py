import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sumgrad.jobs.config.tracking_uri import SQLITE, check_tracking_reachable
from sumgrad.jobs.errors import TrackingError, TrackingUnreachable
from sumgrad.jobs.tracking import store as store_module
from sumgrad.jobs.tracking.store import open_store
from sumgrad.jobs.tracking.ui import ui_command

OPEN = """
import sys
from sumgrad.jobs.tracking.store import open_store
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


HOLD = """
import fcntl, sys, time
with open(sys.argv[1], "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_that_a_stopped_process_holds_is_told_of(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / ".mlflow.db.lock"
    monkeypatch.setattr(store_module, "LOCK_TIMEOUT_S", 0.5)
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            holder.send_signal(signal.SIGSTOP)
            with pytest.raises(TrackingUnreachable, match=f"has locked {lock} for 0.5 s") as caught:
                open_store(uri)
            assert f"fuser {lock}" in caught.value.hint
            monkeypatch.setattr(store_module, "LOCK_TIMEOUT_S", 30.0)
            # Whoever comes in time is let in.
            threading.Timer(0.5, holder.kill).start()
            open_store(uri)
        finally:
            holder.kill()


def test_importing_it_needs_nothing_heavy() -> None:
    code = (
        "import sys, sumgrad.jobs.tracking, sumgrad.jobs.artifacts.saved_model;"
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


def test_a_server_needs_no_user_interface_started() -> None:
    ui = ui_command("http://me:pw@tracking:5000")
    assert (ui.address, ui.command) == ("http://***@tracking:5000", ())


def test_the_user_interface_is_on_loopback_alone_and_minds_no_modules_of_the_user(
    uri: str, tmp_path: Path
) -> None:
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
            assert listening(port) == {"0100007F"}
        finally:
            server.terminate()
            output = server.communicate(timeout=30)[0]
    assert "the wrong module" not in output


def listening(port: int) -> set[str]:
    """The addresses, in the kernel's hexadecimal, at which somebody listens at a port."""
    lines = [
        line.split()
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
    ]
    places = [line[1].split(":") for line in lines if line[3] == "0A"]
    return {address for address, number in places if int(number, 16) == port}


def answers(address: str, server: "subprocess.Popen[str]") -> bool:
    """Whether the server comes up while its process lives."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(TrackingError):
            check_tracking_reachable(address)
            return True
        time.sleep(0.2)
    return False
