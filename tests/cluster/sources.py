"""Rows that kill, freeze, delay or fail the workers which read them."""

import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import RowIndices
from sumgrad.model.validation import Array

Batch = tuple[Array, NDArray[np.generic]]


@dataclass(frozen=True)
class FaultySource(ArraySource):
    """Rows of which one does something when it is read."""

    row: int

    def read(self, rows: RowIndices, out: Array | None = None) -> Batch:
        if self.row in np.arange(len(self.x))[rows]:
            self.act()
        return super().read(rows, out)

    def act(self) -> None:
        """What happens to the worker that reads the row."""


@dataclass(frozen=True)
class DeadlySource(FaultySource):
    """Kills the first `deaths` processes that read the row; each leaves its process id."""

    deaths: int
    folder: str

    def read(self, rows: RowIndices, out: Array | None = None) -> Batch:
        batch = super().read(rows, out)
        with Path(self.folder, f"reads-{os.getpid()}").open("a") as reads:
            reads.write("x")
        return batch

    def act(self) -> None:
        for death in range(self.deaths):
            with suppress(FileExistsError), Path(self.folder, str(death)).open("x") as marker:
                marker.write(str(os.getpid()))
                marker.flush()
                os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class FreezingSource(FaultySource):
    """Freezes the process that reads the row while a file exists, which it removes.

    All rows take a while, so that other replies come in between.
    """

    armed: str

    def act(self) -> None:
        with suppress(FileNotFoundError):
            Path(self.armed).unlink()
            os.kill(os.getpid(), signal.SIGSTOP)

    def read(self, rows: RowIndices, out: Array | None = None) -> Batch:
        time.sleep(0.01)
        return super().read(rows, out)


@dataclass(frozen=True)
class StuckSource(FaultySource):
    """Never returns to the first worker that reads the row, and takes `seconds` for the others."""

    marker: str
    seconds: float = 0.0

    def act(self) -> None:
        with suppress(FileExistsError), Path(self.marker).open("x"):
            threading.Event().wait()
        time.sleep(self.seconds)


@dataclass(frozen=True)
class LongSource(FaultySource):
    """Takes `seconds` for one row."""

    seconds: float

    def act(self) -> None:
        time.sleep(self.seconds)


@dataclass(frozen=True)
class BlockingSource(ArraySource):
    """Blocks one process until the others have read a number of microbatches.

    Its id is in the file `blocked`; without the file, it is the first process that reads. Each
    process lists the first rows of the microbatches that it has read in a file with its id.
    """

    folder: str
    others: int

    def read(self, rows: RowIndices, out: Array | None = None) -> Batch:
        own, blocked = str(os.getpid()), Path(self.folder, "blocked")
        with suppress(FileExistsError), blocked.open("x") as marker:
            marker.write(own)
        with Path(self.folder, f"reads-{own}").open("a") as reads:
            reads.write(f"{np.arange(len(self.x))[rows][0]}\n")
        while blocked.read_text() == own and len(self.read_by_others(own)) < self.others:
            time.sleep(0.01)
        return super().read(rows, out)

    def read_by_others(self, pid: str) -> set[str]:
        """The microbatches that other processes than this have read."""
        files = Path(self.folder).glob("reads-*")
        return {row for file in files if file.name != f"reads-{pid}" for row in read_lines(file)}


def read_lines(file: Path) -> list[str]:
    """The complete lines of a file that another process writes."""
    return file.read_text().split("\n")[:-1]


@dataclass(frozen=True)
class RaisingSource(FaultySource):
    """Raises for one row: always, or once if there is a marker; other rows take `seconds`."""

    marker: str | None = None
    seconds: float = 0.0

    def act(self) -> None:
        if self.marker is None:
            raise ValueError("this row is invalid")
        with suppress(FileExistsError), Path(self.marker).open("x"):
            raise MemoryError("out of memory for a moment")

    def read(self, rows: RowIndices, out: Array | None = None) -> Batch:
        batch = super().read(rows, out)
        time.sleep(self.seconds)
        return batch
