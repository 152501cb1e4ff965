"""What a training run shows: a live display on a terminal, plain lines elsewhere."""

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TextIO

from sumgrad.cluster.training.state import EpochReport, Evaluation
from sumgrad.jobs.support.text import duration

if TYPE_CHECKING:
    from rich.live import Live


class Reporter(ABC):
    """Receiver of a run's events; every method returns at once."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Show a line."""

    @abstractmethod
    def begin(self, epochs: int, steps_per_epoch: int, first_step: int = 0) -> None:
        """Start to show training, which resumes after `first_step` steps."""

    @abstractmethod
    def step(self, step: int) -> None:
        """Show that a step of the epoch is done; from 1."""

    @abstractmethod
    def epoch(self, report: EpochReport) -> None:
        """Show that an epoch is done."""

    @abstractmethod
    def end(self) -> None:
        """Show that training has ended, successfully or not."""


class PlainReporter(Reporter):
    """One line per epoch, for logs and pipes.

    Epochs that end sooner than `every_s` after the last line are skipped, except the last one.
    """

    def __init__(self, stream: TextIO, *, every_s: float = 0.5) -> None:
        self._stream = stream
        self._every_s = every_s
        self._epochs = 0
        #: When this process began to train, and after how many epochs.
        self._start, self._first_epoch = 0.0, 0.0
        self._shown = -float("inf")
        #: The newest epoch's line if it was skipped; `end` shows it.
        self._skipped: str | None = None

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def begin(self, epochs: int, steps_per_epoch: int, first_step: int = 0) -> None:
        self._epochs = epochs
        self._start, self._first_epoch = time.monotonic(), first_step / steps_per_epoch

    def step(self, step: int) -> None:
        pass

    def epoch(self, report: EpochReport) -> None:
        now = time.monotonic()
        line = describe_epoch(report, self._epochs)
        # A run that resumes after the last step of an epoch reports it without any own step.
        if (epochs_done := report.epoch - self._first_epoch) > 0:
            seconds_per_epoch = (now - self._start) / epochs_done
            left = duration(seconds_per_epoch * (self._epochs - report.epoch))
            line = f"{line}  at most {left} left"
        if now - self._shown < self._every_s:
            self._skipped = line
            return
        self._shown, self._skipped = now, None
        self.note(line)

    def end(self) -> None:
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
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def begin(self, epochs: int, steps_per_epoch: int, first_step: int = 0) -> None:
        from rich.console import Group
        from rich.live import Live
        from rich.text import Text

        self._epochs = epochs
        # Only steps of this process count for the time left.
        total = epochs * steps_per_epoch
        self._progress.reset(self._task, total=total, completed=first_step)
        self._live = Live(
            get_renderable=lambda: Group(Text(self._line or "first epoch"), self._progress),
            console=self._console,
            refresh_per_second=4,
            transient=True,
        )
        self._live.start()

    def step(self, step: int) -> None:
        self._progress.advance(self._task)

    def epoch(self, report: EpochReport) -> None:
        self._line = describe_epoch(report, self._epochs)

    def end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._line:
            self.note(self._line)
            self._line = ""


def describe_epoch(report: EpochReport, epochs: int) -> str:
    """Return an epoch's number, losses, accuracy and rate on one line."""
    parts = [f"epoch {report.epoch}/{epochs}", f"loss {report.train_loss:.4f}"]
    if report.validation is not None:
        parts.append(f"validation {report.validation.loss:.4f}")
        if report.validation.accuracy is not None:
            parts.append(f"accuracy {report.validation.accuracy:.2%}")
    parts.append(f"{report.samples_per_s:,.0f} rows/s")
    return "  ".join(parts)


def describe_evaluation(evaluation: Evaluation) -> str:
    """Return accuracy, loss and number of rows on one line."""
    text = f"loss {evaluation.loss:.4f} on {evaluation.count:,} rows"
    return text if evaluation.accuracy is None else f"accuracy {evaluation.accuracy:.2%}, {text}"


def make_reporter(stream: TextIO) -> Reporter:
    """Return a live display for a terminal, plain lines for anything else."""
    return LiveReporter(stream) if stream.isatty() else PlainReporter(stream)
