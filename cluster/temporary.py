"""Private temporary directories that are removed even if their process was killed."""

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

_PREFIX = "sumgrad-"  #: Directories of `temporary_directory` start with this.
#: Locked by the process that uses the directory; the operating system unlocks it with its end.
_LOCK_NAME = "owner.lock"
_MAX_PARENT_LENGTH = 16  #: Unix sockets in the directory need short paths.


@contextlib.contextmanager
def temporary_directory(purpose: str = "") -> Iterator[Path]:
    """Create a private directory, with `purpose` in its name, and remove it at the end.

    Directories of processes that were killed are removed first.
    """
    parent = _parent()
    remove_abandoned(parent)
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX + purpose, dir=parent))
    # Locked before it has the name that `remove_abandoned` looks for.
    unnamed = directory / f"{_LOCK_NAME}.new"
    lock = FileLock(unnamed)
    lock.acquire(blocking=False)
    unnamed.rename(directory / _LOCK_NAME)
    try:
        yield directory
    finally:
        _remove(directory)
        lock.release()


def make_private_directory(prefix: str) -> Path:
    """Create a directory that only its owner can read, and that outlives this process.

    Ray keeps code and sockets of jobs in its directory, so a user who can write there can run code
    as its owner.
    """
    return Path(tempfile.mkdtemp(prefix=prefix, dir=_parent()))


def remove_abandoned(parent: Path) -> None:
    """Remove this user's directories of `temporary_directory` whose processes have ended."""
    for directory in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, Timeout):
            status = directory.lstat()
            is_private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
            lock_file = directory / _LOCK_NAME
            if is_private and status.st_uid == os.geteuid() and lock_file.exists():
                with FileLock(lock_file).acquire(blocking=False):
                    _remove(directory)


def _remove(directory: Path) -> None:
    """Remove a directory, its lock last, so that what cannot be removed now is removed later."""
    for child in directory.iterdir():
        if child.name == _LOCK_NAME:
            continue
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child, ignore_errors=True)
        else:
            child.unlink(missing_ok=True)
    if [child.name for child in directory.iterdir()] == [_LOCK_NAME]:
        shutil.rmtree(directory, ignore_errors=True)


def _parent() -> Path:
    usual = tempfile.gettempdir()
    is_short = len(usual) <= _MAX_PARENT_LENGTH or not Path("/tmp").is_dir()  # noqa: S108
    return Path(usual if is_short else "/tmp")  # noqa: S108
