"""What a training run shows: a live display on a terminal, plain lines elsewhere."""

import sys
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TextIO

from sumgrad.cluster.training.state import EpochReport
from sumgrad.jobs.support.text import duration

if TYPE_CHECKING:
    from rich.live import Live


class Reporter(ABC):
    """Receives the events of a run; every method returns at once."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Show a line."""

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
        """Training has ended, successfully or not."""


class PlainReporter(Reporter):
    """One line per epoch, for logs and pipes.

    Args:
        stream: Where to write.
        every_s: Skip epochs that end sooner than this after the last line, except the last one.
    """

    def __init__(self, stream: TextIO, *, every_s: float = 0.5) -> None:
        self._stream = stream
        self._every_s = every_s
        self._epochs = 0
        self._start = 0.0
        self._shown = -float("inf")
        #: The newest epoch's line if it was skipped; `end` shows it.
        self._skipped: str | None = None

    def note(self, text: str) -> None:
        """Print a line."""
        print(text, file=self._stream, flush=True)

    def begin(self, epochs: int, steps_per_epoch: int) -> None:
        """Start the clock."""
        self._epochs = epochs
        self._start = time.monotonic()

    def step(self, step: int) -> None:
        """Print nothing."""

    def epoch(self, report: EpochReport, *, accuracy: bool) -> None:
        """Print the epoch, or keep its line for `end`."""
        now = time.monotonic()
        left = (now - self._start) / report.epoch * (self._epochs - report.epoch)
        line = describe(report, self._epochs, accuracy=accuracy)
        line += f"  at most {duration(left)} left"
        if now - self._shown < self._every_s:
            self._skipped = line
            return
        self._shown, self._skipped = now, None
        self.note(line)

    def end(self) -> None:
        """Print the last epoch if it was skipped."""
        if self._skipped is not None:
            self.note(self._skipped)
            self._skipped = None


class LiveReporter(Reporter):
    """The newest epoch above a progress bar, for a terminal."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(file=stream)
        columns = (BarColumn(40), TextColumn("at most"), TimeRemainingColumn(compact=True))
        self._progress = Progress(*columns, console=self._console)
        self._task = self._progress.add_task("", start=False)
        self._live: Live | None = None
        self._epochs = 0
        self._line = ""

    def note(self, text: str) -> None:
        """Print a line above the display."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def begin(self, epochs: int, steps_per_epoch: int) -> None:
        """Show the display."""
        from rich.console import Group
        from rich.live import Live
        from rich.text import Text

        self._epochs = epochs
        self._progress.update(self._task, total=epochs * steps_per_epoch)
        self._progress.start_task(self._task)
        self._live = Live(
            get_renderable=lambda: Group(Text(self._line or "first epoch"), self._progress),
            console=self._console,
            refresh_per_second=4,
            transient=True,
        )
        self._live.start()

    def step(self, step: int) -> None:
        """Advance the bar."""
        self._progress.advance(self._task)

    def epoch(self, report: EpochReport, *, accuracy: bool) -> None:
        """Show the epoch's figures."""
        self._line = describe(report, self._epochs, accuracy=accuracy)

    def end(self) -> None:
        """Replace the display by the last epoch's line."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._line:
            self.note(self._line)
            self._line = ""


def describe(report: EpochReport, epochs: int, *, accuracy: bool) -> str:
    """Return an epoch's number, losses, accuracy and rate on one line of 80 columns."""
    parts = [f"epoch {report.epoch}/{epochs}", f"loss {report.train_loss:.4f}"]
    if report.validation is not None:
        parts.append(f"validation {report.validation.loss:.4f}")
        if accuracy:
            parts.append(f"accuracy {report.validation.accuracy:.2%}")
    parts.append(f"{report.samples_per_s:,.0f} rows/s")
    return "  ".join(parts)


def make_reporter(stream: TextIO | None = None) -> Reporter:
    """Return a live display for a terminal, plain lines for anything else."""
    stream = stream or sys.stdout
    return LiveReporter(stream) if stream.isatty() else PlainReporter(stream)
