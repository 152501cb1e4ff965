"""A job's signs of life: what they say, how they are sent, and what is taken for one."""

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
from sumgrad.jobs.runs.progress import Reporter
from sumgrad.jobs.service.host import heartbeat
from sumgrad.jobs.service.host.heartbeat import TAG, TRAINING_STARTED, Heartbeat, HeartbeatReporter
from tests.fuzzing import cases

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def report(epoch: int, loss: float) -> EpochReport:
    return EpochReport(epoch, epoch, loss, None, 1.0, 0.1, 100, 1.0)


class Noting(Reporter):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(f"note {text}")

    def begin(self, epochs: int, steps_per_epoch: int) -> None:
        self.told.append(f"begin {epochs} {steps_per_epoch}")

    def step(self, step: int) -> None:
        self.told.append(f"step {step}")

    def epoch(self, report: EpochReport, *, accuracy: bool) -> None:
        self.told.append(f"epoch {report.epoch} {accuracy}")

    def end(self) -> None:
        self.told.append("end")


@cases(100)
@given(
    beat=st.builds(
        Heartbeat, FINITE, st.booleans(), st.text(), *[st.integers()] * 2, st.none() | FINITE
    )
)
def test_what_is_sent_is_read_again(beat: Heartbeat) -> None:
    assert Heartbeat.from_json(beat.to_json()) == beat


SOUND = json.loads(Heartbeat(1.0, True, "x", 1, 2, 0.5).to_json())


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "3", "null", '"x"', "{}", "[" * 100_000, '{"at": 1, "more": 2}'),
        *(json.dumps(SOUND | {"at": bad}) for bad in ("1", None, True, math.nan, math.inf)),
        *(json.dumps(SOUND | {"loss": bad}) for bad in ("1", math.nan, -math.inf, True)),
        *(json.dumps(SOUND | {"at": [1]}), json.dumps(SOUND | {"loss": {}})),
        *(json.dumps(SOUND | {name: 1.5}) for name in ("epoch", "epochs", "attempt", "note")),
        *(json.dumps(SOUND | {name: None}) for name in ("epoch", "epochs", "is_training", "note")),
        *(json.dumps(SOUND | {"is_training": 1}), json.dumps(SOUND | {"epoch": "7"})),
    ],
)
def test_what_is_no_heartbeat(text: str) -> None:
    assert Heartbeat.from_json(text) is None


def test_everything_is_passed_on_and_noted() -> None:
    inner = Noting()
    reporter = HeartbeatReporter(inner, attempt=3)
    before = time.time()
    assert not reporter.beat().is_training
    reporter.note("waiting for\nroom")
    assert reporter.beat().note == "waiting for room"
    reporter.begin(20, 5)
    reporter.step(1)
    reporter.epoch(report(1, 0.25), accuracy=True)
    reporter.end()
    beat = reporter.beat()
    begun = [f"note {TRAINING_STARTED}", "begin 20 5"]
    assert inner.told == ["note waiting for\nroom", *begun, "step 1", "epoch 1 True", "end"]
    assert (beat.is_training, beat.epoch, beat.epochs, beat.loss) == (True, 1, 20, 0.25)
    assert beat.attempt == 3
    assert before <= beat.at <= time.time()


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_left_out(loss: float) -> None:
    reporter = HeartbeatReporter(Noting())
    reporter.epoch(report(1, 0.5), accuracy=False)
    reporter.epoch(report(2, loss), accuracy=False)
    again = Heartbeat.from_json(reporter.beat().to_json())
    assert again is not None
    assert (again.epoch, again.loss) == (2, None)


def test_a_note_has_room_in_a_tag() -> None:
    reporter = HeartbeatReporter(Noting())
    reporter.note("ü" * 100_000)
    assert len(reporter.beat().to_json()) < 5000


class Sent:
    """Takes heartbeats; the first ones may fail."""

    def __init__(self, failing: int = 0) -> None:
        self.queue: queue.SimpleQueue[Heartbeat] = queue.SimpleQueue()
        self.failing = failing
        self.tried = 0

    def tell(self, tags: dict[str, str]) -> bool:
        self.tried += 1
        if self.tried <= self.failing:
            raise RuntimeError("MLflow is away")
        beat = Heartbeat.from_json(tags[TAG])
        assert beat is not None
        self.queue.put(beat)
        return True

    def next(self) -> Heartbeat:
        return self.queue.get(timeout=10)


@pytest.fixture
def reporter() -> Iterator[HeartbeatReporter]:
    reporter = HeartbeatReporter(Noting())
    yield reporter
    reporter.stop()
    for thread in threading.enumerate():
        if thread.name == "heartbeat":
            thread.join(10)
            assert not thread.is_alive(), "it goes on after its end"


def test_news_are_sent_at_once(reporter: HeartbeatReporter) -> None:
    sent = Sent()
    reporter.note("starting")
    reporter.start(sent.tell)
    assert sent.next().note == "starting"
    reporter.note("waiting for room")
    while sent.next().note != "waiting for room":
        pass
    reporter.begin(9, 1)
    while not sent.next().is_training:
        pass


def test_life_is_shown_without_news(
    reporter: HeartbeatReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "HEARTBEAT_INTERVAL_S", 0.01)
    sent = Sent()
    reporter.start(sent.tell)
    times = [sent.next().at for _ in range(4)]
    assert times == sorted(times)


def test_a_beat_that_fails_is_followed_by_another(
    reporter: HeartbeatReporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "HEARTBEAT_INTERVAL_S", 0.01)
    sent = Sent(failing=3)
    reporter.start(sent.tell)
    assert sent.next().at > 0
    assert sent.tried >= 4


def test_silence_is_longer_than_a_few_beats() -> None:
    assert heartbeat.HEARTBEAT_TIMEOUT_S > 3 * heartbeat.HEARTBEAT_INTERVAL_S
