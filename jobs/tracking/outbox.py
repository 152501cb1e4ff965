"""The outbox of a run: the files in its directory that are delivered to MLflow.

Training only appends to ``metrics.jsonl``: one line for each value, in the order of the run. The
delivery records in ``delivery.json`` what MLflow has acknowledged. After a crash at any moment the
delivery continues from there. Delivery is idempotent: a value may be sent twice.
"""

import errno
import json
import logging
import math
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sumgrad.jobs.support.files import sync, write_text
from sumgrad.jobs.tracking.metadata import RunEnd

METRICS = "metrics.jsonl"
RECEIPT = "delivery.json"
EXAMPLE = "example.json"
MODEL = "model"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Receipt:
    """What MLflow has acknowledged of a run."""

    mlflow_run_id: str | None = None  #: None until the run and its metadata are there.
    metrics_offset: int = 0  #: The number of bytes of ``metrics.jsonl`` that MLflow has.
    model_id: str | None = None  #: MLflow's id of the model that was logged last.
    #: The digest of that model's ``model.json``, which differs after the run was resumed.
    model_sha256: str | None = None
    end: RunEnd | None = None  #: How the run ended, once MLflow has everything.

    @classmethod
    def read(cls, directory: Path) -> "Receipt":
        """Return the receipt in a run's directory; an empty one if it is missing or damaged."""
        try:
            return _RECEIPT.validate_json((directory / RECEIPT).read_bytes())
        except (OSError, ValidationError):
            return cls()

    def write(self, directory: Path) -> None:
        """Save the receipt; without it values are sent again, so a full disk is no error."""
        with suppress(OSError):
            write_text(directory / RECEIPT, _RECEIPT.dump_json(self).decode())


_RECEIPT = TypeAdapter(Receipt)


@dataclass(frozen=True)
class Point:
    """One value of one metric."""

    key: str
    value: float
    step: int
    timestamp_ms: int

    def to_line(self) -> bytes:
        """Return the line of ``metrics.jsonl``."""
        return json.dumps([self.key, self.value, self.step, self.timestamp_ms]).encode() + b"\n"


class Outbox:
    """The writer of a run's metrics, for the one process that owns the run's lock.

    While the disk is full, values wait in memory and follow later.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / METRICS
        self._path.touch()
        data = self._path.read_bytes()
        self._size = data.rfind(b"\n") + 1
        if self._size < len(data):
            # The last process was killed while it wrote this line.
            os.truncate(self._path, self._size)
        self._known = {(point.key, point.step) for point in _parse(data[: self._size])}
        receipt = Receipt.read(directory)
        if receipt.metrics_offset > self._size:
            # The machine crashed before the file reached the disk. Send everything again.
            replace(receipt, metrics_offset=0).write(directory)
        #: The first step at which a metric was NaN or infinite, by name. Such values are left out:
        #: MLflow stores an infinity as 1.8e308, which flattens its charts.
        self.non_finite: dict[str, int] = {}
        #: Guards the fields below: training logs while a checkpoint is written.
        self._lock = threading.Lock()
        self._unwritten = b""
        self._is_failing = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the values of one step; those that a resumed run repeats are left out."""
        now = time.time_ns() // 1_000_000
        with self._lock:
            for key, value in metrics.items():
                if not math.isfinite(value):
                    self.non_finite.setdefault(key, step)
                elif (key, step) not in self._known:
                    self._known.add((key, step))
                    self._unwritten += Point(key, float(value), step, now).to_line()
            try:
                self._write()
            except OSError as error:
                if not self._is_failing:
                    why = error.strerror or error
                    _logger.warning("metrics cannot be written to %s: %s", self._path, why)
                self._is_failing = True

    def _write(self) -> None:
        """Write the values that are only in memory; raise OSError if the disk is full."""
        if not self._unwritten:
            return
        with self._path.open("r+b", buffering=0) as file:
            file.seek(self._size)
            if file.write(self._unwritten) != len(self._unwritten):
                # The next call overwrites what is incomplete.
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self._size += len(self._unwritten)
        self._unwritten = b""
        if self._is_failing:
            _logger.info("metrics are written to %s again", self._path)
        self._is_failing = False

    def sync(self) -> None:
        """Bring all values to the disk; raise OSError if some cannot be written."""
        with self._lock:
            self._write()
        sync(self._path)

    def unwritten(self) -> list[Point]:
        """Return the values that the disk had no space for."""
        with self._lock:
            return _parse(self._unwritten)


def read_points(directory: Path, offset: int, limit: int) -> tuple[list[Point], int]:
    """Return at most `limit` values of a run from an offset in bytes, and the offset behind them.

    Damaged lines are skipped with a warning.
    """
    path = directory / METRICS
    lines: list[bytes] = []
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n") or len(lines) == limit:
                break
            lines.append(line)
    data = b"".join(lines)
    points = _parse(data)
    if len(points) < len(lines):
        _logger.warning("%s is damaged: %d values are lost", path, len(lines) - len(points))
    return points, offset + len(data)


def _parse(data: bytes) -> list[Point]:
    """Return the values in whole lines of ``metrics.jsonl``, without the damaged ones."""
    points = []
    for line in data.split(b"\n"):
        with suppress(ValueError, TypeError, OverflowError, RecursionError):
            key, value, step, timestamp_ms = json.loads(line)
            point = Point(str(key), float(value), int(step), int(timestamp_ms))
            if math.isfinite(point.value):
                points.append(point)
    return points
