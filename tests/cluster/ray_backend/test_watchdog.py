"""Calls into Ray end when the daemons that they wait for have died or are suspended."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sumgrad.cluster.errors import ClusterUnreachable
from sumgrad.cluster.ray_backend import watchdog
from sumgrad.cluster.ray_backend.watchdog import DaemonWatch, HeadWatch, RayStalled, run_watched
from tests.cluster.polling import wait_for


@pytest.fixture
def watch() -> DaemonWatch:
    return DaemonWatch()


@pytest.fixture
def daemon(tmp_path: Path, watch: DaemonWatch) -> Iterator["subprocess.Popen[bytes]"]:
    """A child process with the name of Ray's daemon."""
    executable = tmp_path / "raylet"
    shutil.copy("/bin/sleep", executable)
    with subprocess.Popen([executable, "60"]) as process:
        wait_for(watch._statuses)
        yield process
        process.kill()


def test_a_result_and_an_error_are_passed_on() -> None:
    assert run_watched(lambda: 3, lambda: None) == 3
    with pytest.raises(ZeroDivisionError):
        run_watched(lambda: 1 // 0, lambda: None)


def test_a_call_that_does_not_return_ends_with_the_watch_s_reason() -> None:
    released = threading.Event()
    with pytest.raises(RayStalled, match="the raylet has exited"):
        run_watched(released.wait, lambda: "the raylet has exited")
    released.set()


def test_the_thread_of_a_call_lives_until_it_is_told() -> None:
    threads: list[threading.Thread] = []
    is_finished = threading.Event()
    run_watched(
        lambda: threads.append(threading.current_thread()), lambda: None, keep_thread=is_finished
    )
    assert threads[0].is_alive()
    is_finished.set()
    threads[0].join(10)
    assert not threads[0].is_alive()


@pytest.mark.skipif(sys.platform != "linux", reason="the daemon's name is that of its file")
def test_a_daemon_that_was_killed_is_noticed(
    daemon: "subprocess.Popen[bytes]", watch: DaemonWatch
) -> None:
    assert DaemonWatch().failure() is None
    assert watch.failure() is None
    daemon.kill()
    wait_for(lambda: watch.failure() == "Ray's raylet on this machine has exited", 10)
    assert DaemonWatch().failure() is None, "a session is not concerned with earlier ones"


@pytest.mark.skipif(sys.platform != "linux", reason="the daemon's name is that of its file")
def test_a_daemon_that_was_suspended_for_a_while_is_noticed(
    daemon: "subprocess.Popen[bytes]", watch: DaemonWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "_SUSPENDED_S", 0.1)
    os.kill(daemon.pid, signal.SIGSTOP)
    wait_for(watch.blocks_shutdown, 10)
    wait_for(lambda: watch.failure() == "Ray's raylet on this machine is suspended", 10)
    os.kill(daemon.pid, signal.SIGCONT)
    wait_for(lambda: watch.failure() is None, 10)
    assert watch.exited() is None


def test_a_head_is_given_up_after_two_failed_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([True, False, True, False, False])

    def probe(address: str) -> None:
        if not next(answers):
            raise ClusterUnreachable(f"no Ray cluster answers at '{address}'")

    monkeypatch.setattr(watchdog, "check_reachable", probe)
    monkeypatch.setattr(watchdog, "_PROBE_INTERVAL_S", 0.0)
    monkeypatch.setattr(watchdog, "_RETRY_INTERVAL_S", 0.0)
    watch = HeadWatch("head:6379")
    found = [watch.failure() for _ in range(5)]
    assert found == [None] * 4 + ["no Ray cluster answers at 'head:6379'"]
