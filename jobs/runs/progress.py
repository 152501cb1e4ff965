"""What a training run shows as it goes on: a live display in a terminal, plain lines elsewhere."""

import sys
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TextIO

from sumgrad.cluster.training.state import EpochReport

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Reporter(ABC):
    """Told of a run's events; all of them return at once."""

    @abstractmethod
    def note(self, text: str) -> None:
        """A line about what is going on."""

    @abstractmethod
    def begin(self, epochs: int, steps_per_epoch: int) -> None:
        """Training starts."""

    @abstractmethod
    def step(self, step: int) -> None:
        """A step of the epoch is done; from 1."""

    @abstractmethod
    def epoch(self, report: EpochReport, *, accuracy: bool) -> None:
        """An epoch is done."""

    @abstractmethod
    def end(self) -> None:
        """Training is over, however it ended."""


class PlainReporter(Reporter):
    """One line an epoch, for logs and pipes.

    Args:
        stream: Where to write.
        every_s: Epochs that come faster than this are left out, but for the first and the last.
    """

    def __init__(self, stream: TextIO, *, every_s: float = 0.5) -> None:
        self._stream = stream
        self._every_s = every_s
        self._epochs = 0
        self._began = 0.0
        self._shown = -float("inf")
        #: The newest epoch's line while it is held back; `end` shows it.
        self._held: str | None = None

    def note(self, text: str) -> None:
        """See `Reporter.note`."""
        print(text, file=self._stream, flush=True)

    def begin(self, epochs: int, steps_per_epoch: int) -> None:
        """See `Reporter.begin`."""
        self._epochs = epochs
        self._began = time.monotonic()

    def step(self, step: int) -> None:
        """Too much for lines."""

    def epoch(self, report: EpochReport, *, accuracy: bool) -> None:
        """See `Reporter.epoch`."""
        now = time.monotonic()
        left = (now - self._began) / report.epoch * (self._epochs - report.epoch)
        line = f"{describe(report, self._epochs, accuracy=accuracy)}  at most {left:.0f} s left"
        if now - self._shown < self._every_s:
            self._held = line
            return
        self._shown, self._held = now, None
        self.note(line)

    def end(self) -> None:
        """See `Reporter.end`."""
        if self._held is not None:
            self.note(self._held)
            self._held = None


class LiveReporter(Reporter):
    """A bar with the newest figures, for a person at a terminal."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._steps_per_epoch = 1
        self._done = 0

    def note(self, text: str) -> None:
        """See `Reporter.note`."""
        self._console.print(text, highlight=False, markup=False)

    def begin(self, epochs: int, steps_per_epoch: int) -> None:
        """See `Reporter.begin`."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._steps_per_epoch = steps_per_epoch
        self._epochs = epochs
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("at most"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("first epoch", total=epochs * steps_per_epoch)
        self._progress.start()

    def step(self, step: int) -> None:
        """See `Reporter.step`."""
        self._done += 1
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._done)

    def epoch(self, report: EpochReport, *, accuracy: bool) -> None:
        """See `Reporter.epoch`."""
        if self._progress is not None and self._task is not None:
            text = describe(report, self._epochs, accuracy=accuracy)
            self._progress.update(self._task, description=text)

    def end(self) -> None:
        """See `Reporter.end`."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def describe(report: EpochReport, epochs: int, *, accuracy: bool) -> str:
    """An epoch in a line: number, losses, accuracy, rate."""
    parts = [f"epoch {report.epoch}/{epochs}", f"loss {report.train_loss:.4f}"]
    if report.validation is not None:
        parts.append(f"validation {report.validation.loss:.4f}")
        if accuracy:
            parts.append(f"accuracy {report.validation.accuracy:.2%}")
    parts.append(f"{report.samples_per_s:,.0f} instances/s")
    return "  ".join(parts)


def make_reporter(stream: TextIO | None = None) -> Reporter:
    """Live where a person looks on, plain elsewhere."""
    stream = stream or sys.stdout
    return LiveReporter(stream) if stream.isatty() else PlainReporter(stream)
