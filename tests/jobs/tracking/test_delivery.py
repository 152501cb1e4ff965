import errno
import threading
import time
from collections.abc import Sequence

import pytest

from sumgrad.jobs.tracking.delivery import BATCH, MetricQueue, Refused
from sumgrad.jobs.tracking.outbox import MemoryBacklog, Point


class Sink:
    """Keeps what it gets; fails, refuses or hangs when told to."""

    def __init__(self) -> None:
        self.batches: list[list[Point]] = []
        self.failures = 0
        self.refuse = False
        self.pause = 0.0
        self.go_on = threading.Event()
        self.go_on.set()

    def send(self, points: Sequence[Point]) -> None:
        self.go_on.wait(10)
        time.sleep(self.pause)
        if self.failures:
            self.failures -= 1
            raise OSError("away")
        if self.refuse:
            raise Refused("never")
        self.batches.append(list(points))

    @property
    def points(self) -> list[Point]:
        return [point for batch in self.batches for point in batch]


@pytest.fixture
def sink() -> Sink:
    return Sink()


def queue(sink: Sink, said: list[str], interval: float = 0.01) -> MetricQueue:
    return MetricQueue(sink, said.append, interval=interval)


def test_everything_arrives_in_order_and_in_batches(sink: Sink, said: list[str]) -> None:
    sink.go_on.clear()
    metrics = queue(sink, said)
    for step in range(2500):
        metrics.put(step, {"loss": 1.0 / (step + 1)}, 1000 + step)
    sink.go_on.set()
    delivery = metrics.close(5)
    assert [point.step for point in sink.points] == list(range(2500))
    assert max(len(batch) for batch in sink.batches) == BATCH
    assert (delivery.delivered, delivery.undelivered, said) == (2500, 0, [])
    assert sink.points[3] == Point("loss", 0.25, 3, 1003)


def test_putting_never_waits_for_the_store(sink: Sink, said: list[str]) -> None:
    sink.go_on.clear()
    metrics = queue(sink, said)
    for step in range(1000):
        metrics.put(step, {"loss": 1.0}, 0)
    assert sink.points == [], "the store has not moved, and all were taken"
    sink.go_on.set()
    assert metrics.close(5).delivered == 1000


def test_it_sends_about_once_an_interval(sink: Sink, said: list[str]) -> None:
    began = time.monotonic()
    metrics = queue(sink, said, interval=0.2)
    for step in range(50):
        metrics.put(step, {"loss": 1.0}, 0)
        time.sleep(0.01)
    assert len(sink.batches) <= 2 + (time.monotonic() - began) / 0.2
    assert metrics.flush(5)
    assert len(sink.points) == 50


def test_an_outage_is_told_once_and_loses_nothing(sink: Sink, said: list[str]) -> None:
    sink.failures = 3
    metrics = queue(sink, said)
    metrics.put(1, {"loss": 1.0}, 0)
    delivery = metrics.close(5)
    assert (delivery.delivered, delivery.undelivered) == (1, 0)
    assert said == [
        "metrics cannot be delivered, trying again: away",
        "metrics are delivered again",
    ]


def test_an_outage_at_the_end_is_counted_and_bounded(sink: Sink, said: list[str]) -> None:
    sink.failures = 10**6
    metrics = queue(sink, said)
    metrics.put(1, {"loss": 1.0, "accuracy": 0.5}, 0)
    delivery = metrics.close(0.3)
    assert (delivery.delivered, delivery.undelivered) == (0, 2)
    assert metrics.close(0.3) == delivery


def test_a_store_that_hangs_is_left_behind(sink: Sink, said: list[str]) -> None:
    sink.go_on.clear()
    metrics = queue(sink, said)
    metrics.put(1, {"loss": 1.0}, 0)
    assert metrics.close(0.2).undelivered == 1
    sink.go_on.set()


def test_a_store_that_is_slow_is_waited_for(sink: Sink, said: list[str]) -> None:
    sink.pause = 0.1
    metrics = queue(sink, said)
    for step in range(30 * BATCH):
        metrics.put(step, {"loss": 1.0}, 0)
    # All in all it takes longer than two seconds, in which it never stands still as long.
    assert metrics.close(2).delivered == 30 * BATCH


def test_what_is_refused_does_not_hold_up_the_rest(sink: Sink, said: list[str]) -> None:
    sink.refuse = True
    metrics = queue(sink, said)
    metrics.put(1, {"loss": 1.0}, 0)
    metrics.flush(5)
    sink.refuse = False
    metrics.put(2, {"loss": 1.0}, 0)
    delivery = metrics.close(5)
    assert (delivery.delivered, delivery.undelivered) == (1, 1)
    assert [point.step for point in sink.points] == [2]


def test_values_that_are_not_finite_are_noted_not_sent(sink: Sink, said: list[str]) -> None:
    metrics = queue(sink, said)
    for step, value in enumerate([1.0, float("inf"), float("nan")]):
        metrics.put(step, {"loss": value}, 0)
    delivery = metrics.close(5)
    assert [point.step for point in sink.points] == [0]
    assert delivery.non_finite == {"loss": 1}


def test_a_point_after_the_end_is_lost_not_awaited(sink: Sink, said: list[str]) -> None:
    metrics = queue(sink, said)
    metrics.close(1)
    metrics.put(1, {"loss": 1.0}, 0)
    assert metrics.close(1).undelivered == 1


class Unreadable(MemoryBacklog):
    """A backlog whose file cannot be opened, for a while."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self._method = method
        self._failures = 3

    def _fail(self, method: str) -> None:
        if method == self._method and self._failures:
            self._failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")

    def first(self, count: int) -> list[Point]:
        self._fail("first")
        return super().first(count)

    def settle(self, count: int) -> None:
        self._fail("settle")
        super().settle(count)


@pytest.mark.parametrize("method", ["first", "settle"])
def test_a_backlog_that_cannot_be_read_for_a_while_is_no_end(
    sink: Sink, said: list[str], method: str
) -> None:
    metrics = MetricQueue(sink, said.append, interval=0.01, backlog=Unreadable(method))
    metrics.put(1, {"loss": 1.0}, 0)
    delivery = metrics.close(5)
    assert (delivery.delivered, delivery.undelivered) == (1, 0)
    assert set(sink.points) == {Point("loss", 1.0, 1, 0)}
    assert said == [
        "metrics cannot be delivered, trying again: [Errno 24] Too many open files",
        "metrics are delivered again",
    ]


def test_nobody_who_listens_is_no_reason_to_stop(sink: Sink) -> None:
    def warn(line: str) -> None:
        raise BrokenPipeError

    sink.failures = 2
    metrics = MetricQueue(sink, warn, interval=0.01)
    metrics.put(1, {"loss": 1.0}, 0)
    assert metrics.close(5).delivered == 1


def test_what_a_failure_says_has_no_secrets(said: list[str]) -> None:
    class Failing(Sink):
        def send(self, points: Sequence[Point]) -> None:
            raise OSError("POST http://me:pw@host/x failed")

    metrics = queue(Failing(), said)
    metrics.put(1, {"loss": 1.0}, 0)
    metrics.close(0.1)
    (line,) = said
    assert line.endswith("POST http://***@host/x failed")
