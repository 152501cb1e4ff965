"""Checkpoints: snapshots of a run on disk, from which it goes on after any end.

A checkpoint is a folder of two files: ``arrays.safetensors``, and ``state.json`` with everything
else and the SHA-256 of both. It is written beside its place, brought to the disk and then renamed,
so that it is whole or not there; and it is read back only if both checksums are right. Nothing is
pickled. The folder's name says which step it is of, and whether it was the best so far:
``step-000000120-epoch-000003``, ``step-000000120-epoch-000004.best``. One that was found damaged is
set aside as ``….damaged``.
"""

import contextlib
import hashlib
import json
import math
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from sumgrad.cluster.training.state import Snapshot
from sumgrad.jobs.errors import CheckpointError
from sumgrad.jobs.support.files import is_partial, write_folder
from sumgrad.jobs.support.memory import check_memory_for_file, read_small_file

FORMAT = 1
ARRAYS = "arrays.safetensors"
STATE = "state.json"
_BEST = ".best"
_NAME = re.compile(r"step-(\d{9,})-epoch-(\d{6,})(\.best)?")
#: A state.json longer than this is none of ours.
_LONGEST_STATE = 1 << 24


@dataclass(frozen=True)
class Checkpoint:
    """A snapshot, and the job that it belongs to.

    Attributes:
        snapshot: Arrays and position.
        job: What the run is identified by; see `sumgrad.jobs.runs.signature`.
        lowest_loss: Of the best checkpoint so far; infinite before the first.
        run: Whose it is, for people and for a folder that is found alone: ids and the whole spec.
    """

    snapshot: Snapshot
    job: Mapping[str, Any]
    lowest_loss: float = math.inf
    run: Mapping[str, Any] = field(default_factory=dict)


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: Made when the first one is written.
        keep: So many of the last ones are kept, and the best.
        run: See `Checkpoint.run`.
    """

    def __init__(
        self, folder: Path, keep: int = 2, run: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self.folder = folder
        self._keep = keep
        self._run = run

    def write(self, checkpoint: Checkpoint, *, is_best: bool = False) -> Path:
        """Write a checkpoint, and remove those that are not to be kept.

        Raises:
            OSError: It could not be written; the others are untouched.
        """
        snapshot = checkpoint.snapshot
        epoch = int(snapshot.metadata["progress"]["epoch"])
        name = f"step-{snapshot.step:09d}-epoch-{epoch:06d}{_BEST if is_best else ''}"
        path = self.folder / name
        if path.exists() and not _is_whole(path):
            _set_aside(path)
        if not path.exists():
            # What is there already is of the same step of the same job, and so the same.
            write_folder(path, lambda place: _write(place, replace(checkpoint, run=self._run)))
        self._prune(path)
        return path

    def paths(self) -> list[Path]:
        """Whole checkpoints, the newest first."""
        if not self.folder.is_dir():
            return []
        named = [(order, path) for path in self.folder.iterdir() if (order := _order(path))]
        return [path for _, path in sorted(named, reverse=True)]

    def newest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The newest checkpoint that is as it was written; others are set aside.

        Args:
            warn: Takes a line for each of those.

        Returns:
            None if there has been none.

        Raises:
            CheckpointError: There are some, all of them damaged.
        """
        paths = self.paths()
        for place, path in enumerate(paths):
            try:
                checkpoint = read_checkpoint(path)
            except CheckpointError as error:
                warn(f"WARNING: {error.message}; the one before it is taken")
                continue
            for damaged in paths[:place]:
                _set_aside(damaged)
            return checkpoint
        if paths:
            raise CheckpointError(
                f"none of the {len(paths)} checkpoints in {self.folder} can be used",
                hint="train it again from the beginning: sumgrad train",
            )
        return None

    def _prune(self, written: Path) -> None:
        paths = self.paths()
        best = [path for path in paths if path.suffix == _BEST]
        for path in set(paths) - set(paths[: self._keep]) - set(best[:1]) - {written}:
            shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.iterdir():
            if is_partial(path):
                # Of a process that ended while it wrote: there is one writer at a time.
                shutil.rmtree(path, ignore_errors=True)


def _set_aside(path: Path) -> None:
    """Take a damaged one out of the way, and leave it to whoever wants to look at it."""
    with contextlib.suppress(OSError):
        path.rename(path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.damaged"))


def _is_whole(path: Path) -> bool:
    try:
        read_checkpoint(path)
    except CheckpointError:
        return False
    return True


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and check that it is the one that was written.

    Raises:
        CheckpointError: It is not; the message names the file.
    """
    try:
        return _read(path)
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
        raise CheckpointError(f"{error.filename or path} {why}") from error
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}") from error


def _read(path: Path) -> Checkpoint:
    written = json.loads(read_small_file(path / STATE, _LONGEST_STATE))
    content, sums = written["content"], written["sha256"]
    if written["format"] != FORMAT:
        raise CheckpointError(
            f"{path / STATE} has format {written['format']!r}, this sumgrad reads {FORMAT}"
        )
    check_memory_for_file(path / ARRAYS)
    arrays = (path / ARRAYS).read_bytes()
    for name, data in ((STATE, _canonical(content)), (ARRAYS, arrays)):
        if sums[name] != _sha256(data):
            raise CheckpointError(f"{path / name} was altered: its checksum is not right")
    lowest = content["lowest_loss"]
    return Checkpoint(
        Snapshot(load(arrays), content["facts"]),
        content["job"],
        math.inf if lowest is None else float(lowest),
        content["run"],
    )


def _write(place: Path, checkpoint: Checkpoint) -> None:
    snapshot = checkpoint.snapshot
    # Not ascontiguousarray, which gives a number a dimension.
    arrays = {name: np.asarray(array, order="C") for name, array in snapshot.arrays.items()}
    save_file(arrays, place / ARRAYS)
    lowest = checkpoint.lowest_loss
    content = {
        "job": dict(checkpoint.job),
        "run": dict(checkpoint.run),
        "facts": dict(snapshot.metadata),
        # JSON has no infinity.
        "lowest_loss": lowest if math.isfinite(lowest) else None,
    }
    sums = {
        ARRAYS: _sha256((place / ARRAYS).read_bytes()),
        STATE: _sha256(_canonical(content)),
    }
    text = json.dumps({"format": FORMAT, "sha256": sums, "content": content}, indent=1)
    (place / STATE).write_text(text + "\n", encoding="utf-8")


def _canonical(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _order(path: Path) -> tuple[int, int] | None:
    match = _NAME.fullmatch(path.name)
    return (int(match[1]), int(match[2])) if match else None
