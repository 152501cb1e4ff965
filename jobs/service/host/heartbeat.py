"""A job's own signs of life: a tag of its run in MLflow, renewed every few seconds."""

import json
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from sumgrad.cluster.training.state import EpochReport
from sumgrad.jobs.runs.progress import Reporter

#: The tag.
TAG = "sumgrad.heartbeat"
HEARTBEAT_INTERVAL_S = 10.0
#: As long as MLflow has not answered yet; a short run is over soon after it has.
_FIRST_S = 0.2
#: Without a sign for so long something is wrong, with the job or with its way to MLflow.
HEARTBEAT_TIMEOUT_S = 60.0
#: A line of the log, for whoever cannot ask MLflow: from here on steps are computed.
TRAINING_STARTED = "training started"
#: Characters; a tag has room for a few thousand.
_LONGEST_NOTE = 500


@dataclass(frozen=True)
class Heartbeat:
    """What a job says of itself.

    Attributes:
        at: When, in seconds since 1970, by the clock of its machine.
        is_training: Whether steps are being computed; before, it starts or waits.
        note: The newest line about what is going on.
        epoch: Epochs done.
        epochs: Of at most so many.
        loss: Of the training rows in the newest epoch.
        attempt: Which attempt of its job it is, from 1.
    """

    at: float
    is_training: bool = False
    note: str = ""
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    attempt: int = 1

    def to_json(self) -> str:
        """As the tag's value."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self | None:
        """What `to_json` gave; None for anything else."""
        try:
            beat = cls(**json.loads(text))
        except (ValueError, TypeError, RecursionError):
            return None
        return beat if beat._is_sound else None

    @property
    def _is_sound(self) -> bool:
        # A tag is anybody's to write.
        facts: dict[str, Any] = asdict(self)
        numbers = [facts["at"], *([] if facts["loss"] is None else [facts["loss"]])]
        counts = [facts[name] for name in ("epoch", "epochs", "attempt")]
        return (
            all(type(number) in (int, float) for number in numbers)
            and all(map(math.isfinite, numbers))
            and all(type(count) is int for count in counts)
            and type(facts["is_training"]) is bool
            and type(facts["note"]) is str
        )


class HeartbeatReporter(Reporter):
    """Passes everything on, and notes it for the heartbeat.

    Args:
        inner: The reporter for people.
        attempt: Of the job.
    """

    def __init__(self, inner: Reporter, attempt: int = 1) -> None:
        self._inner = inner
        self._beat = Heartbeat(time.time(), attempt=attempt)
        #: Guards `_beat`, which threads of the run change.
        self._lock = threading.Lock()
        #: Set when there is news that should not wait.
        self._wake = threading.Event()
        self._is_over = False

    def start(self, tell: Callable[[dict[str, str]], bool]) -> None:
        """Begin to send; from a thread of its own, as it may take long.

        Args:
            tell: Sends tags, and gives whether there is somebody to send them to yet; whatever it
                raises, the next beat is tried again.
        """

        def run() -> None:
            while True:
                is_heard = True
                with suppress(Exception):
                    is_heard = tell({TAG: self.beat().to_json()})
                self._wake.wait(HEARTBEAT_INTERVAL_S if is_heard else _FIRST_S)
                self._wake.clear()
                if self._is_over:
                    return

        threading.Thread(target=run, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        """No more beats."""
        self._is_over = True
        self._wake.set()

    def beat(self) -> Heartbeat:
        """The state of now."""
        with self._lock:
            return replace(self._beat, at=time.time())

    def _now(self, **changes: object) -> None:
        with self._lock:
            self._beat = replace(self._beat, **changes)  # type: ignore[arg-type]

    def note(self, text: str) -> None:
        """See `Reporter.note`."""
        self._now(note=" ".join(text.split())[:_LONGEST_NOTE])
        self._wake.set()
        self._inner.note(text)

    def begin(self, epochs: int, steps_per_epoch: int) -> None:
        """See `Reporter.begin`."""
        self._now(is_training=True, epochs=epochs)
        self._wake.set()
        self._inner.note(TRAINING_STARTED)
        self._inner.begin(epochs, steps_per_epoch)

    def step(self, step: int) -> None:
        """See `Reporter.step`."""
        self._inner.step(step)

    def epoch(self, report: EpochReport, *, accuracy: bool) -> None:
        """See `Reporter.epoch`."""
        loss = report.train_loss if math.isfinite(report.train_loss) else None
        self._now(epoch=report.epoch, loss=loss)
        self._inner.epoch(report, accuracy=accuracy)

    def end(self) -> None:
        """See `Reporter.end`."""
        self._wake.set()
        self._inner.end()
