"""Writing files so that a crash leaves either the old or the new content, never a part."""

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write or replace a file, in UTF-8.

    Raises:
        OSError: It could not be written; the previous file is unchanged.
    """
    partial = _partial_path(path)
    try:
        partial.write_text(text, encoding="utf-8")
        sync(partial)
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Write or replace a folder of files.

    Args:
        path: The folder; its parents are created.
        fill: Writes the files into the folder that it is called with.

    Raises:
        OSError: It could not be written; the previous folder is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_path(path)
    partial.mkdir()
    try:
        fill(partial)
        for file in partial.iterdir():
            sync(file)
        sync(partial)
        if path.exists():
            replaced = _partial_path(path)
            path.rename(replaced)
            partial.rename(path)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync(path.parent)


def is_partial(path: Path) -> bool:
    """Whether a process ended while it wrote this file or folder."""
    return path.name.endswith(_PARTIAL)


def sync(path: Path) -> None:
    """Flush the content of a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_PARTIAL = ".unfinished"


def _partial_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_PARTIAL}")
