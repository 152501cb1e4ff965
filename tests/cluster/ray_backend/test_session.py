"""Addresses that cannot be a cluster are told at once; Ray is kept in check."""

import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sumgrad.cluster.errors import ClusterUnreachable
from sumgrad.cluster.ray_backend import session as ray_session_module
from sumgrad.cluster.ray_backend.session import ensure_token_file, preserve_sigterm, ray_session


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://head:10001", "Ray Client addresses"),
        ("somewhere", "not inline, local, auto or host:port"),
        ("head:port", "not inline, local, auto or host:port"),
        ("127.0.0.1:99999999", "no Ray cluster answers"),
    ],
)
def test_an_address_that_is_none_is_refused(address: str, message: str) -> None:
    with pytest.raises(ClusterUnreachable, match=message), ray_session(address, 1):
        pass


@pytest.mark.timeout(60)
def test_a_cluster_that_does_not_answer_is_told_within_seconds() -> None:
    with (
        pytest.raises(ClusterUnreachable, match="no Ray cluster answers"),
        ray_session(f"127.0.0.1:{free_port()}", 1),
    ):
        pass


def test_ray_s_handlers_of_termination_are_kept_out() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)
    with preserve_sigterm():
        assert signal.signal(signal.SIGTERM, lambda *_: sys.exit(15)) is before[0]
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is before[0]
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    signal.signal(signal.SIGUSR1, before[1])
    assert signal.getsignal(signal.SIGUSR1) is before[1]


_TERMINATED = """
import os, signal, time
from sumgrad.cluster.ray_backend.session import ray_session
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append("asked"))
with ray_session("local", 1):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(4)
    print(*asked)
"""


@pytest.mark.ray
def test_a_process_that_is_terminated_has_the_time_that_it_needs() -> None:
    """Ray would abort it after three seconds, in the middle of saving."""
    done = subprocess.run(
        [sys.executable, "-c", _TERMINATED],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "asked\n", "")


@pytest.mark.parametrize(
    ("address", "variable", "shown"),
    [
        ("head:6379", "RAY_AUTH_TOKEN", True),
        ("auto", "RAY_AUTH_TOKEN_PATH", True),
        ("head:6379", None, False),
        ("local", "RAY_AUTH_TOKEN", False),
    ],
)
def test_a_token_of_the_environment_is_shown_to_a_cluster(
    monkeypatch: pytest.MonkeyPatch, address: str, variable: str | None, shown: bool
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "x")
    assert ("RAY_AUTH_MODE" in ray_session_module._client_environment(address)) is shown


def test_the_token_is_its_owners_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
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


def test_a_home_that_cannot_be_written_is_for_ray_to_tell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    ensure_token_file()
    assert not (tmp_path / "none").exists()
