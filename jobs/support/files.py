"""Files that are whole or not there at all, whatever moment a process or a machine ends at."""

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write or replace a file, in UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write or replace a file.

    Raises:
        OSError: It could not be written; what was there before still is.
    """
    unfinished = _beside(path)
    try:
        unfinished.write_bytes(data)
        sync(unfinished)
        unfinished.rename(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Write or replace a folder of files.

    Args:
        path: Its parents are made.
        fill: Writes the files into the folder that it is given.

    Raises:
        OSError: It could not be written; what was there before still is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _beside(path)
    unfinished.mkdir()
    try:
        fill(unfinished)
        for file in unfinished.iterdir():
            sync(file)
        sync(unfinished)
        if path.exists():
            replaced = _beside(path)
            path.rename(replaced)
            unfinished.rename(path)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            unfinished.rename(path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync(path.parent)


def is_partial(path: Path) -> bool:
    """Whether a process ended while it wrote this file or folder."""
    return path.name.endswith(_UNFINISHED)


def sync(path: Path) -> None:
    """Have a file's or a folder's content reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_UNFINISHED = ".unfinished"


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_UNFINISHED}")
