"""The supervision of the process that delivers a run."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from sumgrad.jobs.errors import TrackingError, TrackingUnreachable
from sumgrad.jobs.tracking import run_tracker
from sumgrad.jobs.tracking.outbox import Point
from sumgrad.jobs.tracking.run_tracker import RunTracker
from tests.jobs.tracking.conftest import FAILED, FINISHED, KILLED
from tests.jobs.tracking.fake_mlflow_process import BUSY

FAKE_PROCESS = (sys.executable, "-P", str(Path(__file__).with_name("fake_mlflow_process.py")))


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


@pytest.fixture
def start(notes: Path) -> Iterator[Callable[..., RunTracker]]:
    with ExitStack() as trackers:

        def started(
            command: tuple[str, ...] = FAKE_PROCESS, must_answer: bool = False
        ) -> RunTracker:
            tracker = RunTracker(str(notes), must_answer=must_answer, command=command)
            return trackers.enter_context(closing(tracker))

        yield started


def messages(notes: Path) -> list[tuple[int, tuple[object, ...]]]:
    """Every message, with the process that received it."""
    lines = [line.split(" ", 1) for line in notes.read_text().splitlines()]
    return [
        (int(pid), pickle.loads(bytes.fromhex(text))) for pid, text in lines if text != "started"
    ]


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_is_registered_tagged_and_finished(
    start: Callable[..., RunTracker], run: Path, notes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = start()
    tracker.start(run, resumed=True)
    tracker.wait_until_registered()
    tracker.set_tags({"a": "b"})
    point = Point("loss", 0.5, 1, 1000)
    assert tracker.finish(FINISHED, [point])
    assert not tracker.finish(FAILED)
    received = [message for _, message in messages(notes)]
    assert received == [
        ("run", run, True),
        ("tags", {"a": "b"}),
        ("end", FINISHED, [point]),
        ("end", FAILED, []),
    ]
    assert caplog.messages == ["metrics are delivered again"]
    assert tracker.refusal is None


def test_a_refused_run_raises_with_message_and_hint(
    start: Callable[..., RunTracker], run: Path
) -> None:
    tracker = start()
    tracker.raise_if_refused()
    tracker.start(run.with_name("refused"))
    with pytest.raises(TrackingError, match="the experiment is deleted") as caught:
        tracker.wait_until_registered()
    assert caught.value.hint == "restore it"
    assert tracker.refusal is caught.value
    with pytest.raises(TrackingError):
        tracker.raise_if_refused()
    assert not tracker.finish(KILLED)


def test_a_store_that_does_not_answer_is_a_warning(
    start: Callable[..., RunTracker], run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = start()
    tracker.start(run.with_name("away"))
    tracker.wait_until_registered()
    tracker.raise_if_refused()
    assert "training continues" in caplog.text


def test_a_refusal_after_an_outage_is_only_a_warning(
    start: Callable[..., RunTracker], run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = start()
    tracker.start(run.with_name("away-then-refused"))
    tracker.wait_until_registered()
    assert not tracker.finish(FAILED)
    tracker.raise_if_refused()
    (outage, refusal) = caplog.messages
    assert "training continues" in outage
    assert refusal == "MLflow refuses the run; training continues: the experiment is deleted"


def test_a_store_that_must_answer_and_does_not_is_an_error(
    start: Callable[..., RunTracker], run: Path
) -> None:
    tracker = start(must_answer=True)
    tracker.start(run.with_name("away"))
    with pytest.raises(TrackingUnreachable, match="does not answer"):
        tracker.wait_until_registered()


def test_a_store_that_hangs_is_waited_for_once_and_bounded(
    start: Callable[..., RunTracker],
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(run_tracker, "RESPONSE_TIMEOUT_S", 0.3)
    monkeypatch.setenv(BUSY, "0.3")
    tracker = start()
    tracker.start(run.with_name("hangs"))
    tracker.wait_until_registered()
    assert "has not answered in 0.3 s; training continues" in caplog.text
    assert not tracker.finish(KILLED, timeout=0.2)
    assert "has not accepted the rest in 0.2 s" in caplog.messages[-1]


def test_progress_extends_the_wait(start: Callable[..., RunTracker], run: Path) -> None:
    tracker = start()
    tracker.start(run)
    tracker.wait_until_registered()
    assert tracker.finish(replace(FINISHED, stop_reason="slow"), timeout=1.0)


@pytest.mark.parametrize("name", ["frozen-once", "killed-once"])
def test_a_process_that_dies_or_freezes_is_replaced(
    start: Callable[..., RunTracker], run: Path, notes: Path, name: str
) -> None:
    tracker = start()
    tracker.start(run.with_name(name))
    tracker.set_tags({"a": "b"})
    assert tracker.finish(FINISHED)
    received = messages(notes)
    pids = {pid for pid, _ in received}
    assert len(pids) == 2
    last = [message for pid, message in received if pid == received[-1][0]]
    assert [message[0] for message in last] == ["run", "tags", "end"]


@pytest.mark.parametrize(
    "command", [("/nowhere/python",), (sys.executable, "-c", "raise SystemExit"), ("garbage",)]
)
def test_a_process_that_does_not_work_is_an_outage(
    start: Callable[..., RunTracker],
    run: Path,
    command: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_tracker, "START_TIMEOUT_S", 0.5)
    monkeypatch.setattr(run_tracker, "RESPONSE_TIMEOUT_S", 0.3)
    monkeypatch.setenv(BUSY, "0.3")
    tracker = start(FAKE_PROCESS if command == ("garbage",) else command)
    tracker.start(run.with_name("garbage"))
    tracker.wait_until_registered()
    assert not tracker.finish(FINISHED, timeout=0.2)


def test_a_process_that_ends_before_it_reads_is_waited_for_and_replaced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # A message that fills the socket's memory is not sent before the process ends.
    tracker = RunTracker("x" * 10**7, command=(sys.executable, "-c", ""))
    with closing(tracker):
        pids: list[int] = []
        while len(set(pids)) < 2:
            pids += [tracker._process.pid] if tracker._process is not None else []
            time.sleep(0.01)
        assert not psutil.pid_exists(pids[0])
    assert caplog.messages == []


def test_closing_ends_a_process_that_hangs(
    start: Callable[..., RunTracker], run: Path, notes: Path
) -> None:
    tracker = start()
    tracker.start(run.with_name("hangs"))
    while len(notes.read_text().splitlines() if notes.exists() else []) < 2:
        time.sleep(0.01)
    tracker.close()
    wait_until_gone(messages(notes)[0][0])


PARENT = """
import sys, time
from sumgrad.jobs.tracking.run_tracker import RunTracker
tracker = RunTracker(sys.argv[1], command=sys.argv[2:])
time.sleep(999)
"""


@pytest.mark.parametrize("is_frozen", [False, True])
def test_the_process_ends_with_its_parent_even_if_it_is_frozen(
    notes: Path, is_frozen: bool
) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(notes), *FAKE_PROCESS]) as parent:
        while not notes.exists() or not notes.read_text().endswith("started\n"):
            time.sleep(0.01)
        child = int(notes.read_text().split()[0])
        if is_frozen:
            # Parent and child freeze together, so that the parent cannot replace it first.
            parent.send_signal(signal.SIGSTOP)
            os.kill(child, signal.SIGSTOP)
        parent.kill()
        parent.wait()
        wait_until_gone(child)


def test_signals_to_the_process_group_do_not_end_the_process(
    start: Callable[..., RunTracker], run: Path, notes: Path
) -> None:
    tracker = start()
    tracker.start(run)
    tracker.wait_until_registered()
    ((pid, _),) = messages(notes)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    assert tracker.finish(KILLED)
    assert {each for each, _ in messages(notes)} == {pid}


def test_the_uri_is_in_no_command_line(start: Callable[..., RunTracker], notes: Path) -> None:
    start()
    while not notes.exists() or not notes.read_text().endswith("started\n"):
        time.sleep(0.01)
    pid = int(notes.read_text().split()[0])
    assert str(notes) not in " ".join(psutil.Process(pid).cmdline())
