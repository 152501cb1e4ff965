"""Processes that are started, watched and ended, with all that they have started."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sumgrad.jobs.service.local import processes
from sumgrad.jobs.service.local.processes import Process, Stat, start, stat_of
from tests.jobs.service.living import is_alive, wait_until_dead

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")


@pytest.fixture
def started() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts programs, each in a session of its own, and ends them."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(program: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", program], start_new_session=True, stdout=subprocess.PIPE
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def of(process: subprocess.Popen[bytes]) -> Process:
    found = stat_of(process.pid)
    assert found is not None
    return Process(process.pid, found.began)


Starting = Callable[[str], "subprocess.Popen[bytes]"]


def test_a_process_lives_until_it_ends(started: Starting) -> None:
    process = started("input()")
    ours, lives = of(process), [True]
    lives.append(ours.is_alive)
    process.kill()
    wait_until_dead(process.pid)
    lives.append(ours.is_alive)
    process.wait()
    lives.append(ours.is_alive)
    assert lives[1:] == [True, False, False], "its remains are no life"


def test_another_process_with_its_number_is_not_taken_for_it(started: Starting) -> None:
    process = started("import time; time.sleep(600)")
    earlier = replace(of(process), began=of(process).began - 1)
    assert not earlier.is_alive
    earlier.end()
    assert process.poll() is None, "it was not touched"
    assert of(process).is_alive


@pytest.mark.parametrize("name", ["a) Z 1 (b", "x y", "((("])
def test_a_name_does_not_lead_astray(name: str, started: Starting) -> None:
    process = started(
        f"open('/proc/self/comm', 'w').write({name!r}); print(flush=True); "
        "import time; time.sleep(600)"
    )
    assert process.stdout is not None
    process.stdout.readline()
    assert Path(f"/proc/{process.pid}/comm").read_text().strip() == name
    assert of(process).is_alive
    assert stat_of(process.pid) == Stat(process.pid, of(process).began, is_alive=True)


FAMILY = """
import os, signal, subprocess, sys, time
if {deaf}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
more = {{"process_group": 0}} if {apart} else {{}}
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"], **more)
print(child.pid, flush=True)
{then}
"""


@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("then", ["time.sleep(600)", "os._exit(1)"])
def test_the_end_of_a_process_is_the_end_of_all_that_it_has_started(
    deaf: bool, apart: bool, then: str, started: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_S", 0.3)
    process = started(FAMILY.format(deaf=deaf, apart=apart, then=then))
    ours = of(process)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    if "exit" in then:
        process.wait()
    assert is_alive(child)
    ours.end()
    assert not is_alive(child)
    assert not ours.is_alive
    ours.end()


#: Ends what it has started, if that was not told so before it, and then takes its time.
IN_ORDER = """
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


def test_one_that_ends_its_own_in_their_order_is_let_do_so(started: Starting) -> None:
    process = started(IN_ORDER)
    assert process.stdout is not None
    process.stdout.readline()
    began = time.monotonic()
    of(process).end()
    assert time.monotonic() - began < processes.STOP_S / 2
    assert process.wait() == 0


def test_what_is_started_writes_its_log_and_gets_its_environment_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = "import os; print(sorted(os.environ), os.getcwd(), os.getsid(0) == os.getpid())"
    process = start([sys.executable, "-S", "-c", program], {"A": "1"}, tmp_path, log)
    wait_until_dead(process.pid)
    process.end()
    said = log.read_text()
    assert "'A'" in said
    assert "HOME" not in said
    assert said.endswith(f"{tmp_path} True\n")


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="/nowhere/ray"):
        start(["/nowhere/ray"], os.environ, tmp_path, tmp_path / "log")
