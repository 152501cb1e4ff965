"""Paths below a home folder, and writing files so that a crash leaves no part of a file."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PARTIAL = ".unfinished"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path for a new file or folder, which then replaces the one at ``path``.

    If that raises an error, what was there before is unchanged.
    """
    partial = _partial_path(path)
    try:
        yield partial
        is_folder = partial.is_dir()
        for written in (*partial.iterdir(), partial) if is_folder else (partial,):
            sync(written)
        if is_folder and path.exists():
            replaced = _partial_path(path)
            path.rename(replaced)
            partial.rename(path)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            partial.rename(path)
    except BaseException:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def expand_user(path: str) -> Path:
    """Return a path without ``~``; unlike `Path.expanduser` it keeps that of an unknown user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def write_text(path: Path, text: str) -> None:
    """Write or replace a file, in UTF-8; errors are those of `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Write or replace a folder, which ``fill`` fills with files; its parents are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.mkdir()
        fill(partial)


def is_partial(path: Path) -> bool:
    """Return whether a process ended while it wrote this file or folder."""
    return path.name.endswith(_PARTIAL)


def sync(path: Path) -> None:
    """Flush the content of a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _partial_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_PARTIAL}")
