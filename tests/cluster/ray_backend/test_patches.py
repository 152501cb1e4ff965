"""Ray's internals are what `patches` expects; a new version of Ray has to be checked."""

import atexit
import inspect
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private import node, ray_constants, services, utils, worker

from sumgrad.cluster.errors import ClusterUnreachable
from sumgrad.cluster.ray_backend import patches


def test_ray_s_version_was_checked() -> None:
    assert ray.__version__ == patches.CHECKED_VERSION, (
        "check each function of patches.py against this version of Ray, then set CHECKED_VERSION"
    )


def test_the_thread_that_prints_what_daemons_report_is_replaced() -> None:
    listen = worker.listen_error_messages
    assert list(inspect.signature(listen).parameters) == ["worker", "threads_stopped"]
    assert "target=listen_error_messages" in inspect.getsource(worker.connect)
    with patches.silence_daemons():
        assert worker.listen_error_messages is not listen
    assert worker.listen_error_messages is listen


def test_the_wait_for_the_gcs_s_port_releases_the_interpreter(tmp_path: Path) -> None:
    internals: Any = node
    source = inspect.getsource(node.Node)
    assert source.count("wait_for_persisted_port(") == 2
    assert "timeout_ms=gcs_port_wait_s * 1000" in source
    wait, node_id = internals.wait_for_persisted_port, "ab" * 28
    file = tmp_path / internals.get_port_filename(node_id, "gcs_server_port")
    threading.Timer(0.1, lambda: file.write_text("6379")).start()
    with patches.release_interpreter():
        # Ray's own function would keep the timer's thread from running until the timeout.
        port = internals.wait_for_persisted_port(
            str(tmp_path), node_id, "gcs_server_port", timeout_ms=30_000
        )
    assert port == 6379
    assert internals.wait_for_persisted_port is wait


def test_an_instance_is_started_on_loopback_by_a_constant() -> None:
    before = ray_constants.ENABLE_RAY_CLUSTER
    assert before
    assert "ray_constants.ENABLE_RAY_CLUSTER" in inspect.getsource(services.get_node_ip_address)
    with patches.loopback_only(enabled=True):
        assert services.get_node_ip_address() == "127.0.0.1"  # type: ignore[no-untyped-call]
    with patches.loopback_only(enabled=False):
        before = ray_constants.ENABLE_RAY_CLUSTER
    assert before


def test_an_instance_is_started_without_the_daemons_that_no_job_uses() -> None:
    internals: Any = node.Node
    starts = inspect.getsource(internals.start_head_processes)
    starts += inspect.getsource(internals.start_ray_processes)
    names = ("start_monitor", "start_log_monitor", "start_api_server")
    before = [getattr(internals, name) for name in names]
    assert [f"self.{name}(" in starts for name in names] == [True] * 3
    agent = "    if ray._private.utils.get_dashboard_dependency_error() is not None:\n"
    assert agent in inspect.getsource(services.start_raylet)
    with patches.only_needed_daemons(enabled=False):
        assert [getattr(internals, name) for name in names] == before
    with patches.only_needed_daemons(enabled=True):
        assert [getattr(internals, name)(None) for name in names] == [None] * 3
        assert utils.get_dashboard_dependency_error() is not None
    assert [getattr(internals, name) for name in names] == before


def test_the_address_of_a_running_instance_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    assert patches.find_running_instance() == "192.0.2.1:6379"
    monkeypatch.setattr(services, "canonicalize_bootstrap_address", lambda _: None)
    with pytest.raises(ClusterUnreachable, match="no Ray cluster runs"):
        patches.find_running_instance()


def test_sigterm_keeps_its_handler() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with patches.preserve_sigterm():
            pass
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


_ABANDON = """
import os, sys
from sumgrad.cluster.errors import ClusterUnreachable
from sumgrad.cluster.ray_backend import patches
patches.abandon()
os.write(2, b"from C++\\n")
print("from Python", file=sys.stderr)
"""


def test_an_abandoned_ray_prints_nothing_and_is_not_waited_for() -> None:
    assert "atexit.register(shutdown, _exiting_interpreter=True)" in inspect.getsource(worker)
    done = subprocess.run(
        [sys.executable, "-c", _ABANDON],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert (done.returncode, done.stderr) == (0, "from Python\n")
    assert callable(atexit.unregister)
