"""``sumgrad ui``: what it starts, and that it shows no secrets."""

import os
import signal
import socket
import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest

from sumgrad.jobs.cli.app import run
from sumgrad.jobs.config.tracking_uri import check_tracking_reachable
from sumgrad.jobs.errors import TrackingError
from sumgrad.jobs.support.polling import wait_until
from sumgrad.jobs.tracking import user_interface
from sumgrad.jobs.tracking.user_interface import ui_command, ui_environment
from tests.jobs.service.fakes import free_port

URI = "postgresql://me:s3cr3t/pass@db.example/x"


def test_an_mlflow_server_is_opened_without_its_password(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(user_interface, "check_tracking_reachable", lambda uri: None)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setenv("DISPLAY", ":0")
    assert run(["ui", "--tracking-uri", "http://me:s3cr3t@tracking:5000"]) == 0
    output = capsys.readouterr()
    assert output.out == "runs of http://***@tracking:5000: http://***@tracking:5000\n"
    assert output.err == ""
    assert opened == ["http://tracking:5000"]


def test_a_database_is_served_on_loopback_with_its_password_in_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(user_interface, "_open_browser", lambda address: None)
    monkeypatch.setattr(user_interface, "_wait", lambda server: 0)
    monkeypatch.setattr(subprocess, "Popen", lambda command, env: started.append((command, env)))
    port = free_port()
    assert run(["ui", "--tracking-uri", URI, "--port", str(port)]) == 0
    output = capsys.readouterr()
    assert output.out.startswith(
        f"runs of postgresql://***@db.example/x: http://127.0.0.1:{port}\n"
    )
    assert "s3cr3t" not in output.out + output.err
    ((command, environment),) = started
    assert "s3cr3t" not in " ".join(command)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert environment["MLFLOW_BACKEND_STORE_URI"] == URI


@pytest.mark.parametrize(("code", "reported"), [("exit(3)", 3), ("kill(getpid(), 15)", 143)])
def test_the_exit_code_names_the_signal_that_ended_the_server(
    monkeypatch: pytest.MonkeyPatch, code: str, reported: int
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with subprocess.Popen([sys.executable, "-c", f"from os import *; {code}"]) as server:
        assert user_interface._wait(server) == reported


def test_a_taken_port_is_refused(capsys: pytest.CaptureFixture[str], uri: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["ui", "--tracking-uri", uri, "--port", str(port)]) == 2
    output = capsys.readouterr()
    assert f"port {port} cannot be used: Address already in use" in output.err
    assert output.out == ""


def test_modules_of_the_users_folder_are_not_imported(uri: str, tmp_path: Path) -> None:
    for name in ("model", "jobs", "types", "packaging"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    port = free_port()
    with subprocess.Popen(
        ui_command(port),
        env={**os.environ, **ui_environment(uri)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        try:
            assert wait_until(lambda: server.poll() is not None or answers(port), 60)
            assert listening(port) == {"0100007F"}
        finally:
            server.terminate()
            output = server.communicate(timeout=30)[0]
    assert "the wrong module" not in output


def listening(port: int) -> set[str]:
    """Return the addresses, in the kernel's hexadecimal, on which a process listens on a port."""
    lines = [
        line.split()
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for line in Path(table).read_text().splitlines()[1:]
    ]
    sockets = [line[1].split(":") for line in lines if line[3] == "0A"]
    return {address for address, number in sockets if int(number, 16) == port}


def answers(port: int) -> bool:
    try:
        check_tracking_reachable(f"http://127.0.0.1:{port}")
    except TrackingError:
        return False
    return True
