"""A job's heartbeat: its content, its delivery, and tags that are not one."""

import io
import json
import math
import queue
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumgrad.cluster.training.state import EpochReport
from sumgrad.jobs.service import heartbeat
from sumgrad.jobs.service.heartbeat import TAG, TRAINING_STARTED, Heartbeat, HeartbeatReporter
from tests.fuzzing import cases

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def report(epoch: int, loss: float) -> EpochReport:
    return EpochReport(epoch, epoch, loss, None, 1.0, 0.1, 100, 1.0)


@cases(100)
@given(
    sent=st.builds(
        Heartbeat, FINITE, st.booleans(), st.text(), *[st.integers()] * 2, st.none() | FINITE
    )
)
def test_a_heartbeat_survives_its_tag(sent: Heartbeat) -> None:
    assert Heartbeat.from_json(sent.to_json()) == sent


VALID = json.loads(Heartbeat(1.0, True, "x", 1, 2, 0.5).to_json())


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "3", "null", '"x"', "{}", "[" * 100_000, '{"at": 1, "more": 2}'),
        *(json.dumps(VALID | {"at": wrong}) for wrong in ("1", None, True, math.nan, math.inf)),
        *(json.dumps(VALID | {"loss": wrong}) for wrong in ("1", math.nan, -math.inf, True)),
        *(json.dumps(VALID | {"at": [1]}), json.dumps(VALID | {"loss": {}})),
        *(json.dumps(VALID | {name: 1.5}) for name in ("epoch", "epochs", "attempt", "note")),
        *(json.dumps(VALID | {name: None}) for name in ("epoch", "epochs", "is_training", "note")),
        *(json.dumps(VALID | {"is_training": 1}), json.dumps(VALID | {"epoch": "7"})),
    ],
)
def test_any_other_tag_is_ignored(text: str) -> None:
    assert Heartbeat.from_json(text) is None


def test_progress_is_logged_and_kept() -> None:
    log = io.StringIO()
    reporter = HeartbeatReporter(log, attempt=3)
    before = time.time()
    assert not reporter.current().is_training
    reporter.note("waiting for\nCPUs")
    assert reporter.current().note == "waiting for CPUs"
    reporter.begin(20, 5, 3)
    reporter.step(1)
    reporter.epoch(report(1, 0.25))
    reporter.note("worker 1 joined")
    reporter.end()
    current = reporter.current()
    waiting, cpus, started, epoch, joined = log.getvalue().splitlines()
    assert (waiting, cpus, started, joined) == (
        *("waiting for", "CPUs", TRAINING_STARTED, "worker 1 joined"),
    )
    assert epoch.startswith("epoch 1/20  loss 0.2500")
    assert (current.is_training, current.epoch, current.epochs) == (True, 1, 20)
    assert (current.loss, current.attempt, current.note) == (0.25, 3, "waiting for CPUs")
    assert before <= current.at <= time.time()


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_left_out(loss: float) -> None:
    reporter = HeartbeatReporter(io.StringIO())
    reporter.epoch(report(1, 0.5))
    reporter.epoch(report(2, loss))
    read = Heartbeat.from_json(reporter.current().to_json())
    assert read is not None
    assert (read.epoch, read.loss) == (2, None)


def test_a_long_line_is_cut_to_fit_into_a_tag() -> None:
    reporter = HeartbeatReporter(io.StringIO())
    reporter.note("ü" * 100_000)
    assert len(reporter.current().to_json()) < 5000


class Tags:
    """Receives tags."""

    def __init__(self) -> None:
        self.queue: queue.SimpleQueue[Heartbeat] = queue.SimpleQueue()

    def send(self, tags: dict[str, str]) -> None:
        sent = Heartbeat.from_json(tags[TAG])
        assert sent is not None
        self.queue.put(sent)

    def next(self) -> Heartbeat:
        return self.queue.get(timeout=10)


@pytest.fixture
def reporter() -> Iterator[HeartbeatReporter]:
    reporter = HeartbeatReporter(io.StringIO())
    yield reporter
    reporter.stop()
    for thread in threading.enumerate():
        if thread.name == "heartbeat":
            thread.join(10)
            assert not thread.is_alive(), "it runs after its end"


def test_changes_are_sent_at_once(reporter: HeartbeatReporter) -> None:
    tags = Tags()
    reporter.note("starting")
    reporter.start(tags.send)
    assert tags.next().note == "starting"
    reporter.note("waiting for CPUs")
    while tags.next().note != "waiting for CPUs":
        pass
    reporter.begin(9, 1)
    while not tags.next().is_training:
        pass


def test_heartbeats_are_sent_without_changes(
    reporter: HeartbeatReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "HEARTBEAT_INTERVAL_S", 0.01)
    tags = Tags()
    reporter.start(tags.send)
    times = [tags.next().at for _ in range(4)]
    assert times == sorted(times)


def test_the_timeout_allows_for_several_lost_heartbeats() -> None:
    assert heartbeat.HEARTBEAT_TIMEOUT_S > 3 * heartbeat.HEARTBEAT_INTERVAL_S
