"""Metrics that wait for delivery: in a file that outlives the process, or in memory.

The file is a journal: a line for each value, in the order of the run, and beside it how much of
them has been delivered. After a crash what was not delivered still is there, and what may have been
is sent again, which MLflow takes for one and the same.
"""

import contextlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from jobs.durable import sync

#: What is kept in memory while a store does not answer; beyond it the newest are dropped.
CAPACITY = 200_000


@dataclass(frozen=True)
class Point:
    """One value of one curve."""

    key: str
    value: float
    step: int
    timestamp_ms: int


class Backlog(Protocol):
    """Points in order; not for several threads at a time."""

    def append(self, points: Sequence[Point]) -> int:
        """Take points; gives how many there was no room for."""

    def first(self, count: int) -> list[Point]:
        """The oldest points, at most so many."""

    def settle(self, count: int) -> None:
        """So many of the oldest points need not be kept any more."""

    def __len__(self) -> int:
        """How many points wait."""


class MemoryBacklog:
    """Points that are lost with the process."""

    def __init__(self) -> None:
        self._points: deque[Point] = deque()

    def append(self, points: Sequence[Point]) -> int:
        """See `Backlog`."""
        room = CAPACITY - len(self._points)
        self._points.extend(points[:room])
        return max(0, len(points) - room)

    def first(self, count: int) -> list[Point]:
        """See `Backlog`."""
        return list(islice(self._points, count))

    def settle(self, count: int) -> None:
        """See `Backlog`."""
        for _ in range(count):
            self._points.popleft()

    def __len__(self) -> int:
        return len(self._points)


class Journal:
    """Points in a file. The first value of a curve at a step counts; a resumed run repeats some.

    Args:
        path: The file; made if there is none. ``<name>.sent`` beside it says how far it has been
            delivered.
        warn: Takes a line when the file cannot be written; points then wait in memory.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path = path
        self._warn = warn
        self._sent_path = path.with_suffix(".sent")
        path.touch()
        data = path.read_bytes()
        # The last line may have been under way when the process ended.
        lines = data.splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n") and _point(line) is not None]
        self._size = sum(map(len, whole))
        if self._size != len(data):
            path.write_bytes(b"".join(whole))
        points = [_parsed(line) for line in whole]
        self._known = {(point.key, point.step) for point in points}
        self._sent = self._read_sent(b"".join(whole))
        self._waiting = b"".join(whole)[self._sent :].count(b"\n")
        #: Lines that could not be written to the file; they follow on it.
        self._unwritten: list[bytes] = []

    def _read_sent(self, data: bytes) -> int:
        with contextlib.suppress(OSError, ValueError):
            sent = int(self._sent_path.read_text())
            if 0 < sent <= len(data) and data[sent - 1 : sent] == b"\n":
                return sent
        return 0

    def append(self, points: Sequence[Point]) -> int:
        """See `Backlog`; points that are known already are left out."""
        for point in points:
            if (point.key, point.step) in self._known:
                continue
            self._known.add((point.key, point.step))
            line = [point.key, point.value, point.step, point.timestamp_ms]
            self._unwritten.append(json.dumps(line).encode() + b"\n")
            self._waiting += 1
        self._write()
        return 0

    def _write(self) -> None:
        data = b"".join(self._unwritten)
        if not data:
            return
        try:
            with self._path.open("r+b", buffering=0) as file:
                file.seek(self._size)
                complete = file.write(data) == len(data)
            why = "the disk is full"
        except OSError as error:
            complete, why = False, error.strerror or str(error)
        if not complete:
            # Whatever was written of it is written over next time.
            self._warn(f"metrics cannot be kept in {self._path}: {why}")
            return
        self._size += len(data)
        self._unwritten = []

    def first(self, count: int) -> list[Point]:
        """See `Backlog`."""
        return [_parsed(line) for line in self._lines(count)]

    def _lines(self, count: int) -> list[bytes]:
        lines: list[bytes] = []
        with self._path.open("rb") as file:
            file.seek(self._sent)
            while len(lines) < count and file.tell() < self._size:
                lines.append(file.readline())
        return lines + self._unwritten[: count - len(lines)]

    def settle(self, count: int) -> None:
        """See `Backlog`."""
        in_file = min(count, self._waiting - len(self._unwritten))
        self._sent += sum(map(len, self._lines(in_file)))
        del self._unwritten[: count - in_file]
        self._waiting -= count
        with contextlib.suppress(OSError):
            # Lost, it means that some are sent again.
            self._sent_path.write_text(str(self._sent))

    def sync(self) -> None:
        """Have what was appended reach the disk."""
        with contextlib.suppress(OSError):
            sync(self._path)

    def __len__(self) -> int:
        return self._waiting


def _parsed(line: bytes) -> Point:
    key, value, step, timestamp_ms = json.loads(line)
    return Point(str(key), float(value), int(step), int(timestamp_ms))


def _point(line: bytes) -> Point | None:
    """The point of a line; None if it is none of ours."""
    try:
        return _parsed(line)
    except (ValueError, TypeError):
        return None
