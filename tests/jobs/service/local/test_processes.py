"""Server processes: started as leaders of sessions, and ended with everything they started."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from pydantic import ValidationError

from sumgrad.jobs.service.local import processes
from sumgrad.jobs.service.local.processes import ServerProcess, start_process, start_time
from tests.jobs.service.process_checks import is_alive, wait_until_dead

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
Starter = Callable[[str], "subprocess.Popen[bytes]"]
SLEEP = "import time; time.sleep(600)"


@pytest.fixture
def start() -> Iterator[Starter]:
    """Start programs, each as the leader of a session, and kill them in the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(program: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-S", "-c", program]
        started.append(subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def server(process: "subprocess.Popen[bytes]") -> ServerProcess:
    started = start_time(process.pid)
    assert started is not None
    return ServerProcess(process.pid, started)


def test_a_zombie_is_not_alive(start: Starter) -> None:
    process = start(SLEEP)
    ours = server(process)
    states = [ours.is_alive]
    process.kill()
    wait_until_dead(process.pid)
    states.append(ours.is_alive)
    process.wait()
    states.append(ours.is_alive)
    assert states == [True, False, False]
    assert start_time(process.pid) is None


def test_a_later_process_with_the_same_id_is_left_alone(start: Starter) -> None:
    process = start(SLEEP)
    earlier = replace(server(process), started=server(process).started - 1)
    assert not earlier.is_alive
    earlier.terminate()
    assert process.poll() is None
    assert server(process).is_alive


def test_a_change_of_the_clock_does_not_change_the_process(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = server(start(SLEEP))
    boot = psutil.boot_time() + 3600
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot)
    monkeypatch.setattr(psutil, "boot_time", lambda: boot)
    assert ours.is_alive


@pytest.mark.parametrize("pid", [-1, 0, 1])
def test_ids_that_address_groups_of_processes_are_refused(pid: int) -> None:
    with pytest.raises(ValidationError):
        ServerProcess(pid, 1.0)


#: Starts a child, prints its id, and then sleeps or ends.
FAMILY = """
import os, signal, subprocess, sys, time
if {ignores_sigterm}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
more = {{"process_group": 0}} if {own_group} else {{}}
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], **more)
print(child.pid, flush=True)
{then}
"""


@pytest.mark.parametrize(
    ("ignores_sigterm", "own_group", "then"),
    [
        (False, False, "time.sleep(600)"),
        (True, True, "time.sleep(600)"),
        (True, False, "os._exit(1)"),
        (False, True, "os._exit(1)"),
    ],
)
def test_a_process_is_ended_with_everything_that_it_started(
    ignores_sigterm: bool,
    own_group: bool,
    then: str,
    start: Starter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "STOP_TIMEOUT_S", 0.3)
    process = start(FAMILY.format(ignores_sigterm=ignores_sigterm, own_group=own_group, then=then))
    ours = server(process)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    if "exit" in then:
        process.wait()
    assert is_alive(child)
    ours.terminate()
    assert not is_alive(child)
    assert not ours.is_alive
    ours.terminate()


#: Ends its child over a pipe; the child hangs if it receives SIGTERM itself.
ORDERLY = """
import signal, subprocess, sys
slow = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: time.sleep(600)); "
    "print(flush=True); sys.stdin.read()"
)
child = subprocess.Popen([sys.executable, "-S", "-c", slow], stdin=subprocess.PIPE)
def end(*_):
    child.stdin.close()
    child.wait()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
while True:
    signal.pause()
"""


def test_a_process_that_ends_its_own_children_has_time_to_do_so(start: Starter) -> None:
    process = start(ORDERLY)
    assert process.stdout is not None
    process.stdout.readline()
    began = time.monotonic()
    server(process).terminate()
    assert time.monotonic() - began < processes.STOP_TIMEOUT_S / 2
    assert process.wait() == 0


def test_a_started_process_writes_its_log_and_gets_only_its_environment(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = "import os; print(sorted(os.environ), os.getcwd(), os.getsid(0) == os.getpid())"
    process = start_process([sys.executable, "-S", "-c", program], {"A": "1"}, tmp_path, log)
    wait_until_dead(process.pid)
    process.terminate()
    written = log.read_text()
    assert "'A'" in written
    assert "HOME" not in written
    assert written.endswith(f"{tmp_path} True\n")


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="/nowhere/ray"):
        start_process(["/nowhere/ray"], os.environ, tmp_path, tmp_path / "log")
