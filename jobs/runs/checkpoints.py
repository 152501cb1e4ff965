"""Checkpoints: snapshots of a run on disk, from which it can be resumed.

A checkpoint is a folder of two files: ``arrays.safetensors``, and ``state.json`` with everything
else and the SHA-256 of both. It is written under another name, flushed to the disk and then
renamed, so it is complete or absent. It is read only if both checksums match. Nothing is pickled.

The folder's name has the step, the epoch, and whether the checkpoint was the best so far:
``step-000000120-epoch-000003``, ``step-000000120-epoch-000004.best``. A damaged one is renamed to
``….damaged``.
"""

import contextlib
import errno
import hashlib
import json
import logging
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from sumgrad.cluster.training.state import Snapshot
from sumgrad.jobs.artifacts.saved_model import write_tensors
from sumgrad.jobs.errors import CheckpointError
from sumgrad.jobs.support.files import is_partial, write_folder
from sumgrad.jobs.support.memory import check_memory_for_file, read_small_file

_logger = logging.getLogger(__name__)

FORMAT = 2
ARRAYS = "arrays.safetensors"
STATE = "state.json"
_BEST = ".best"
_NAME = re.compile(r"step-(\d{9,})-epoch-(\d{6,})(\.best)?")
_MAX_STATE = 1 << 24  #: The size limit of state.json, in bytes.
#: Errors of a file that is missing, too long or no file.
_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EFBIG, errno.ELOOP)


@dataclass(frozen=True)
class Checkpoint:
    """A snapshot, and the signature of its run."""

    snapshot: Snapshot
    signature: Mapping[str, Any]


class CheckpointStore:
    """The checkpoints of one run: the ``keep`` latest ones, and the best one."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self._keep = keep

    def write(self, checkpoint: Checkpoint, *, is_best: bool = False) -> Path:
        """Write a checkpoint, then remove old ones; after an OSError the others are unchanged."""
        snapshot = checkpoint.snapshot
        epoch = int(snapshot.metadata["progress"]["epoch"])
        name = f"step-{snapshot.step:09d}-epoch-{epoch:06d}{_BEST if is_best else ''}"
        path = self.folder / name
        if path.exists():
            try:
                # An intact checkpoint of this step has the same content.
                read_checkpoint(path)
            except CheckpointError:
                _set_aside(path)
        if not path.exists():
            write_folder(path, lambda target: _write(target, checkpoint))
        self._prune(path)
        return path

    def paths(self) -> list[Path]:
        """Return the complete checkpoints, the newest first."""
        if not self.folder.is_dir():
            return []
        named = [(order, path) for path in self.folder.iterdir() if (order := _order(path))]
        return [path for _, path in sorted(named, reverse=True)]

    def newest(self) -> Checkpoint | None:
        """Return the newest intact checkpoint, and set newer ones aside; None if there is none.

        Raises:
            CheckpointError: All checkpoints are damaged.
            OSError: The newest one that is not damaged cannot be read now.
        """
        paths = self.paths()
        for index, path in enumerate(paths):
            try:
                checkpoint = read_checkpoint(path)
            except CheckpointError as error:
                _logger.warning("%s; using the checkpoint before it", error.message)
                continue
            for damaged in paths[:index]:
                _set_aside(damaged)
            return checkpoint
        if paths:
            problem = f"none of the {len(paths)} checkpoints in {self.folder} can be used"
            raise CheckpointError(problem, hint="start a new run: sumgrad train")
        return None

    def _prune(self, written: Path) -> None:
        paths = self.paths()
        best = [path for path in paths if path.suffix == _BEST]
        for path in set(paths) - set(paths[: self._keep]) - set(best[:1]) - {written}:
            shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.iterdir():
            # Left by a process that was killed: a run has only one writer at a time.
            if is_partial(path):
                shutil.rmtree(path, ignore_errors=True)


def _set_aside(path: Path) -> None:
    """Rename a damaged checkpoint, so that it is not used but can be examined."""
    with contextlib.suppress(OSError):
        path.rename(path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.damaged"))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: It is damaged; names the file.
        OSError: It cannot be read now, for example because it does not fit into memory.
    """
    try:
        state = json.loads(read_small_file(path / STATE, _MAX_STATE))
        content, checksums = state["content"], state["sha256"]
        if state["format"] != FORMAT:
            problem = f"has format {state['format']!r}, this sumgrad reads {FORMAT}"
            raise CheckpointError(f"{path / STATE} {problem}")
        check_memory_for_file(path / ARRAYS)
        arrays = (path / ARRAYS).read_bytes()
        for name, data in ((STATE, _canonical(content)), (ARRAYS, arrays)):
            if checksums[name] != _sha256(data):
                raise CheckpointError(f"{path / name} was altered: its checksum does not match")
        return Checkpoint(Snapshot(load(arrays), content["snapshot"]), content["signature"])
    except OSError as error:
        if error.errno not in _DAMAGE:
            raise OSError(error.errno, error.strerror, error.filename or str(path)) from error
        why = f"cannot be read: {error.strerror}"
        raise CheckpointError(f"{error.filename or path} {why}") from error
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}") from error


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    snapshot = checkpoint.snapshot
    # ascontiguousarray would give a scalar a dimension.
    arrays = {name: np.asarray(array, order="C") for name, array in snapshot.arrays.items()}
    write_tensors(folder / ARRAYS, arrays)
    content = {"signature": dict(checkpoint.signature), "snapshot": dict(snapshot.metadata)}
    checksums = {
        ARRAYS: _sha256((folder / ARRAYS).read_bytes()),
        STATE: _sha256(_canonical(content)),
    }
    text = json.dumps({"format": FORMAT, "sha256": checksums, "content": content}, indent=1)
    (folder / STATE).write_text(text + "\n", encoding="utf-8")


def _canonical(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _order(path: Path) -> tuple[int, int] | None:
    """Return step and epoch of a checkpoint's name; None for any other name."""
    match = _NAME.fullmatch(path.name)
    return (int(match[1]), int(match[2])) if match else None
