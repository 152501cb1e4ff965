"""A job's heartbeat: a tag of its run in MLflow, renewed every few seconds."""

import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Self, TextIO

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from sumgrad.cluster.training.state import EpochReport
from sumgrad.jobs.runs.progress import PlainReporter
from sumgrad.jobs.support.text import one_line

TAG = "sumgrad.heartbeat"  #: The name of the tag.
HEARTBEAT_INTERVAL_S = 10.0
#: Without a heartbeat for this long, the job or its connection to MLflow has a problem.
HEARTBEAT_TIMEOUT_S = 60.0
#: A line of the log that marks the first step, for clients that cannot ask MLflow.
TRAINING_STARTED = "training started"
_MAX_NOTE_LENGTH = 500  #: A tag holds a few thousand characters.


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Heartbeat:
    """The state of a job."""

    at: float  #: Seconds since 1970, by the clock of the job's machine.
    is_training: bool = False  #: Whether steps are computed; before, the job starts or waits.
    note: str = ""  #: The newest line of the log.
    #: Completed epochs, their limit, and the training loss of the newest one.
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    attempt: int = 1

    def is_current(self, now: float) -> bool:
        """Return whether it shows what the job does now: a job that trains does not wait again."""
        return self.is_training or now - self.at <= 3 * HEARTBEAT_INTERVAL_S

    def to_json(self) -> str:
        """Return the tag's value."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self | None:
        """Return the heartbeat of a tag; None if it is not one, for any user can write tags."""
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError:
            return None


class HeartbeatReporter(PlainReporter):
    """The reporter of a submitted job, which writes the job's log and sends heartbeats."""

    def __init__(self, stream: TextIO, attempt: int = 1) -> None:
        super().__init__(stream, every_s=1.0)
        self._heartbeat = Heartbeat(time.time(), attempt=attempt)
        self._lock = threading.Lock()  #: Guards `_heartbeat`, which threads of the run change.
        self._wake = threading.Event()  #: Set when a heartbeat is due at once.
        self._is_stopped = False

    def start(self, set_tags: Callable[[dict[str, str]], None]) -> None:
        """Start a thread that passes the newest state to ``set_tags``, which returns at once."""

        def send_repeatedly() -> None:
            while not self._is_stopped:
                set_tags({TAG: self.current().to_json()})
                self._wake.wait(HEARTBEAT_INTERVAL_S)
                self._wake.clear()

        threading.Thread(target=send_repeatedly, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """Stop sending."""
        self._is_stopped = True
        self._wake.set()

    def current(self) -> Heartbeat:
        """Return the current state."""
        with self._lock:
            return replace(self._heartbeat, at=time.time())

    def _update(self, **changes: Any) -> None:
        with self._lock:
            self._heartbeat = replace(self._heartbeat, **changes)

    def note(self, text: str) -> None:
        """Show a line; before the training, send it at once: it shows what the job waits for."""
        if not self._heartbeat.is_training:
            self._update(note=one_line(text, _MAX_NOTE_LENGTH))
            self._wake.set()
        super().note(text)

    def begin(self, epochs: int, steps_per_epoch: int, first_step: int = 0) -> None:
        """Report that training starts, at once."""
        self._update(is_training=True, epochs=epochs)
        self._wake.set()
        self.note(TRAINING_STARTED)
        super().begin(epochs, steps_per_epoch, first_step)

    def epoch(self, report: EpochReport) -> None:
        """Report an epoch."""
        loss = report.train_loss if math.isfinite(report.train_loss) else None
        self._update(epoch=report.epoch, loss=loss)
        super().epoch(report)

    def end(self) -> None:
        """Report the end of the training, at once."""
        self._wake.set()
        super().end()
