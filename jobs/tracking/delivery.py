"""Metrics on their way: a queue that never blocks training, and a thread that empties it.

Queueing and sending are two things. `MetricQueue` knows nothing of MLflow: it hands batches to a
`MetricSink`, asks again when that fails, and counts what could not be delivered.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sumgrad.jobs.tracking.outbox import Backlog, MemoryBacklog, Point
from sumgrad.jobs.tracking.store import first_line

#: MLflow refuses more in one call.
BATCH = 1000
SEND_EVERY_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0


class Refused(Exception):
    """The store will never take this batch; asking again is pointless."""


class MetricSink(Protocol):
    """Where batches go. Sending the same batch twice must have the effect of sending it once."""

    def send(self, points: Sequence[Point]) -> None:
        """Deliver at most `BATCH` points.

        Raises:
            Refused: This batch can never be delivered.
            Exception: It failed this time.
        """


@dataclass(frozen=True)
class Delivery:
    """What became of the points of a run.

    Attributes:
        delivered: Taken by the store.
        undelivered: The store was away at the end, refused them, or there were too many.
        unanswered: Those of them that wait, and can be delivered later if they are kept in a file.
        is_status_set: Whether the run was given its status.
        non_finite: Name and first step of each metric that was NaN or infinite at some step. Such
            values are left out: MLflow stores an infinity as 1.8e308, which flattens its charts.
    """

    delivered: int
    undelivered: int
    non_finite: Mapping[str, int]
    unanswered: int = 0
    is_status_set: bool = False


class MetricQueue:
    """Takes points at once, sends them about once a second from a thread of its own.

    A store that does not answer is asked again at growing intervals for as long as the run
    lasts; `close` sets an end to it.

    Args:
        sink: Where the points go.
        warn: Takes one line when deliveries begin to fail, and one when they work again.
        interval: Seconds between two sends.
        backlog: Where points wait; by default in memory.
    """

    def __init__(
        self,
        sink: MetricSink,
        warn: Callable[[str], None],
        *,
        interval: float = SEND_EVERY_SECONDS,
        backlog: Backlog | None = None,
    ) -> None:
        self._sink = sink
        self._warn = warn
        self._interval = interval
        self._changed = threading.Condition()
        #: Guarded by `_changed`. A batch stays in here until the sink has taken it.
        self._waiting: Backlog = MemoryBacklog() if backlog is None else backlog
        self._non_finite: dict[str, int] = {}
        self._delivered = 0
        self._lost = 0
        self._hurry = False
        self._closing = False
        #: Only the sending thread touches it: failures in a row.
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def put(self, step: int, metrics: Mapping[str, float], timestamp_ms: int) -> None:
        """Queue the values of one step; returns at once."""
        with self._changed:
            points = []
            for key, value in metrics.items():
                if math.isfinite(value):
                    points.append(Point(key, float(value), step, timestamp_ms))
                else:
                    self._non_finite.setdefault(key, step)
            idle = not len(self._waiting)
            self._lost += len(points) if self._closing else self._waiting.append(points)
            if idle:  # else the sending thread knows that there is something
                self._changed.notify_all()

    def flush(self, patience: float) -> bool:
        """Wait until everything queued is delivered; give up after so long without any progress.

        Args:
            patience: Seconds.

        Returns:
            Whether everything is delivered.
        """
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            while left := len(self._waiting):

                def has_moved(before: int = left) -> bool:
                    return len(self._waiting) < before

                if not self._changed.wait_for(has_moved, patience):
                    break
            self._hurry = False
            return not left

    def close(self, patience: float) -> Delivery:
        """Deliver what is left, as `flush` does, and stop. May be called again."""
        self.flush(patience)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            # Whatever a sink still hangs on is given up; its thread ends with the process.
            waiting = len(self._waiting)
            return Delivery(self._delivered, self._lost + waiting, dict(self._non_finite), waiting)

    def _run(self) -> None:
        while self._wait_for_points():
            started = time.monotonic()
            try:
                has_delivered = self._send_first()
            except Exception as error:  # noqa: BLE001 - tracking never fails a training
                self._failures += 1
                if self._failures == 1:
                    self._say(f"metrics cannot be delivered, trying again: {first_line(error)}")
            else:
                if has_delivered and self._failures:
                    self._say("metrics are delivered again")
                self._failures = 0
            self._pause(started)

    def _wait_for_points(self) -> bool:
        """Wait until there are some; False when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) or self._closing)
            return not self._closing

    def _send_first(self) -> bool:
        """Send the oldest waiting points; gives whether the sink has taken them.

        Raises:
            OSError: The backlog cannot be read now.
            Exception: Whatever the sink raises.
        """
        with self._changed:
            batch = self._waiting.first(BATCH)
        try:
            self._sink.send(batch)
        except Refused as login_error:
            self._settle(batch, delivered=False)
            self._say(f"{len(batch)} metric values were refused: {first_line(login_error)}")
            return False
        self._settle(batch, delivered=True)
        return True

    def _say(self, line: str) -> None:
        # Nobody may be listening any more, which is no reason to stop sending.
        with contextlib.suppress(OSError, ValueError):
            self._warn(line)

    def _settle(self, batch: list[Point], *, delivered: bool) -> None:
        with self._changed:
            if self._closing:  # they are counted as lost already
                return
            self._waiting.settle(len(batch))
            if delivered:
                self._delivered += len(batch)
            else:
                self._lost += len(batch)
            self._changed.notify_all()

    def _pause(self, started: float) -> None:
        with self._changed:
            while not self._closing and (left := started + self._gap() - time.monotonic()) > 0:
                self._changed.wait(left)

    def _gap(self) -> float:
        """Seconds from one send to the next: longer after failures, shorter in a hurry."""
        if self._hurry:
            return self._interval if self._failures else 0.0
        # The exponent is bounded, for a float is not.
        return min(self._interval * 2.0 ** min(self._failures, 10), LONGEST_PAUSE_SECONDS)
