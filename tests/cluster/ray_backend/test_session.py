"""Sessions with Ray: tokens, signals, and daemons that die or freeze while the driver starts."""

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sumgrad.cluster.errors import ClusterUnreachable
from sumgrad.cluster.ray_backend import patches
from sumgrad.cluster.ray_backend import session as session_module
from sumgrad.cluster.ray_backend.session import ensure_token_file, ray_session
from tests.cluster.polling import wait_for
from tests.cluster.ray_nodes import ray_cluster

_TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def test_an_unreachable_address_is_reported_without_ray(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The port accepts connections, as that of a suspended head does, and then closes them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        server.close()
        with pytest.raises(ClusterUnreachable, match="no Ray cluster answers"):
            ray_session(address, 1).__enter__()
    assert capfd.readouterr() == ("", "")


def test_a_stale_address_of_this_machine_is_reported_without_ray(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setattr(patches, "find_running_instance", lambda: f"127.0.0.1:{port}")
    with pytest.raises(ClusterUnreachable, match="no Ray cluster answers"), ray_session("auto", 1):
        pass
    assert capfd.readouterr() == ("", "")


# --- tokens


@pytest.mark.parametrize(
    ("address", "variable", "is_sent"),
    [
        ("head:6379", "RAY_AUTH_TOKEN", True),
        ("auto", "RAY_AUTH_TOKEN_PATH", True),
        ("head:6379", None, False),
        ("local", "RAY_AUTH_TOKEN", False),
    ],
)
def test_a_token_of_the_environment_is_sent_to_a_cluster(
    monkeypatch: pytest.MonkeyPatch, address: str, variable: str | None, is_sent: bool
) -> None:
    for name in _TOKENS:
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "x")
    assert ("RAY_AUTH_MODE" in session_module._client_environment(address)) is is_sent


def test_the_token_file_is_readable_by_its_owner_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in _TOKENS:
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / ".ray" / "auth_token"
    ensure_token_file()
    token = file.read_text()
    assert len(token) == 64
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    ensure_token_file()
    assert file.read_text() == token, "others may be using it"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_home_that_is_not_writable_is_left_to_ray(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    for name in _TOKENS:
        monkeypatch.delenv(name, raising=False)
    ensure_token_file()
    assert not (tmp_path / "none").exists()


# --- starting


_SESSION = """
import os, signal, sys, time
from sumgrad.cluster.errors import ClusterError
from sumgrad.cluster.ray_backend.session import ray_session
received = []
signal.signal(signal.SIGTERM, lambda *_: received.append("SIGTERM"))
try:
    with ray_session(sys.argv[1], 1):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(4)
        print(*received)
except ClusterError as error:
    print(error, file=sys.stderr)
    sys.exit(3)
"""


def start_session(address: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _SESSION, address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.ray
def test_a_terminated_process_has_the_time_that_it_needs() -> None:
    """Ray's core would abort it after three seconds, while it saves."""
    process = start_session("local")
    out, err = process.communicate(timeout=200)
    assert (process.returncode, out, err) == (0, "SIGTERM\n", "")


@pytest.mark.ray
@pytest.mark.parametrize(
    ("daemon", "number", "reason"),
    [
        ("gcs_server", signal.SIGKILL, "has exited"),
        ("raylet", signal.SIGKILL, "has exited"),
        ("gcs_server", signal.SIGSTOP, "is suspended"),
        ("raylet", signal.SIGSTOP, "is suspended"),
    ],
)
def test_a_daemon_that_fails_while_ray_starts_ends_the_session_with_one_line(
    daemon: str, number: signal.Signals, reason: str
) -> None:
    process = start_session("local")
    driver = psutil.Process(process.pid)

    def find() -> list[psutil.Process]:
        assert process.poll() is None, process.communicate()
        return [child for child in driver.children() if child.name() == daemon]

    wait_for(find)
    [found] = find()
    found.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (3, "", f"Ray's {daemon} on this machine {reason}\n")
    wait_for(lambda: not found.is_running() or found.status() == psutil.STATUS_ZOMBIE)


@pytest.fixture
def head() -> Iterator[tuple[str, psutil.Process]]:
    """The address of a cluster and the process of its head."""
    with ray_cluster(1) as cluster:
        children = psutil.Process().children()
        [process] = [child for child in children if child.name() == "gcs_server"]
        yield cluster.address, process
        process.send_signal(signal.SIGCONT)


@pytest.mark.ray
def test_a_suspended_head_is_unreachable(
    head: tuple[str, psutil.Process], capfd: pytest.CaptureFixture[str]
) -> None:
    address, process = head
    os.kill(process.pid, signal.SIGSTOP)
    wait_for(lambda: process.status() == psutil.STATUS_STOPPED)
    with (
        pytest.raises(ClusterUnreachable, match="no Ray cluster answers"),
        ray_session(address, 1),
    ):
        pass
    assert capfd.readouterr() == ("", "")
