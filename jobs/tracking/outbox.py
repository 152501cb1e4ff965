"""Metrics that wait for delivery: in a file that outlives the process, or in memory.

The file is a journal: a line for each value, in the order of the run, and beside it how much of
them has been delivered. After a crash what was not delivered still is there, and what may have been
is sent again, which MLflow takes for one and the same.
"""

import contextlib
import errno
import io
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress, islice
from pathlib import Path
from typing import Protocol

from sumgrad.jobs.support.files import sync, write_bytes

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

    Unlike other backlogs it is for several threads: one may have it `sync` while others use it.

    Args:
        path: The file; made if there is none. ``<name>.sent`` beside it says how far it has been
            delivered.
        warn: Takes a line when the file begins not to be writable, and one when it works again;
            points wait in memory meanwhile. And one if a part of it is damaged.

    Raises:
        OSError: The file cannot be read, or not be repaired; it is as it was.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]) -> None:
        self._path = path
        self._warn = warn
        self._sent_path = path.with_suffix(".sent")
        path.touch()
        data = path.read_bytes()
        lines = list(io.BytesIO(data))
        is_whole = [line.endswith(b"\n") and _point(line) is not None for line in lines]
        whole = list(compress(lines, is_whole))
        kept = b"".join(whole)
        self._size = len(kept)
        self._sent = self._read_sent(lines, is_whole)
        if kept != data:
            self._repair(data, kept)
            # But for the last one, which was under way when the process ended.
            damaged = sum(line.endswith(b"\n") for line in lines) - len(whole)
            if damaged:
                warn(f"{path} was damaged, and {damaged} of its values are lost")
        points = [_parsed(line) for line in whole]
        self._known = {(point.key, point.step) for point in points}
        self._waiting = kept[self._sent :].count(b"\n")
        #: Lines that could not be written to the file; they follow on it.
        self._unwritten: list[bytes] = []
        self._is_failing = False
        #: Guards everything above; not held while a disk syncs, which takes long.
        self._lock = threading.RLock()

    def _read_sent(self, lines: Sequence[bytes], is_whole: Sequence[bool]) -> int:
        """How much is delivered of what is whole; nothing, if that is not known for certain."""
        ends = list(accumulate(map(len, lines)))
        try:
            recorded = int(self._sent_path.read_text())
        except (OSError, ValueError):
            recorded = -1
        sent = 0
        if recorded in ends:
            pairs = zip(lines, is_whole, ends, strict=True)
            sent = sum(len(line) for line, ok, end in pairs if ok and end <= recorded)
        if sent != recorded:
            # It may come to fit by chance when the file has grown.
            self._sent_path.unlink(missing_ok=True)
        return sent

    def _repair(self, data: bytes, kept: bytes) -> None:
        """Have nothing but whole lines in the file."""
        if data.startswith(kept):
            # To cut off what follows takes no room on a disk that may be full, and cannot cost
            # any other line.
            os.truncate(self._path, len(kept))
        else:
            write_bytes(self._path, kept)

    def append(self, points: Sequence[Point]) -> int:
        """See `Backlog`; points that are known already are left out."""
        with self._lock:
            for point in points:
                if (point.key, point.step) in self._known:
                    continue
                self._known.add((point.key, point.step))
                line = [point.key, point.value, point.step, point.timestamp_ms]
                self._unwritten.append(json.dumps(line).encode() + b"\n")
                self._waiting += 1
            try:
                self._write()
            except OSError as error:
                why = error.strerror or str(error)
                self._tell(f"metrics cannot be kept in {self._path}: {why}", is_failing=True)
        return 0

    def _write(self) -> None:
        """Write what is in memory only.

        Raises:
            OSError: Not all of it could be; it is written over next time.
        """
        data = b"".join(self._unwritten)
        if not data:
            return
        with self._path.open("r+b", buffering=0) as file:
            file.seek(self._size)
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self._size += len(data)
        self._unwritten = []
        self._tell(f"metrics are kept in {self._path} again", is_failing=False)

    def _tell(self, line: str, *, is_failing: bool) -> None:
        if is_failing != self._is_failing:
            self._warn(line)
        self._is_failing = is_failing

    def first(self, count: int) -> list[Point]:
        """See `Backlog`.

        Raises:
            OSError: The file cannot be read now.
        """
        with self._lock:
            return [_parsed(line) for line in self._lines(count)]

    def _lines(self, count: int) -> list[bytes]:
        lines: list[bytes] = []
        with self._path.open("rb") as file:
            file.seek(self._sent)
            while len(lines) < count and file.tell() < self._size:
                lines.append(file.readline())
        return lines + self._unwritten[: count - len(lines)]

    def settle(self, count: int) -> None:
        """See `Backlog`.

        Raises:
            OSError: The file cannot be read now; nothing is settled.
        """
        with self._lock:
            in_file = min(count, self._waiting - len(self._unwritten))
            self._sent += sum(map(len, self._lines(in_file)))
            del self._unwritten[: count - in_file]
            self._waiting -= count
            with contextlib.suppress(OSError):
                # Lost, it means that some are sent again.
                self._sent_path.write_text(str(self._sent))

    def follow(self, move: Callable[[], Path]) -> None:
        """Have the file moved, while nobody uses it.

        Args:
            move: Moves it, and gives where it is then.
        """
        with self._lock:
            self._path = move()
            self._sent_path = self._path.with_suffix(".sent")

    def sync(self) -> None:
        """Have everything that was appended reach the disk.

        Raises:
            OSError: Some of it cannot.
        """
        with self._lock:
            self._write()
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
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
