"""Files that hold a token and nothing else."""

import stat
from pathlib import Path

from sumgrad.jobs.errors import ClusterConfigError
from sumgrad.jobs.support.memory import read_small_file

_MOST_BYTES = 1 << 16


def read_token(path: Path, what: str) -> str:
    """The token in a file.

    Args:
        path: The file; a ``~`` is the home folder.
        what: What names the file, for the error.

    Raises:
        ClusterConfigError: It cannot be read, holds none, or can be written by others.
    """
    path = expand_home(path, what)
    try:
        is_open = path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        token = read_small_file(path, _MOST_BYTES).decode("ascii").strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise ClusterConfigError(f"{path} ({what}) cannot be read: {why}") from None
    check_token(token, f"{path} ({what})")
    if is_open & (stat.S_IWGRP | stat.S_IWOTH):
        raise ClusterConfigError(
            f"{path} ({what}) can be written by others", hint=f"chmod 600 {path}"
        )
    return token


def check_token(token: str, where: str) -> str:
    """A token that can be shown in a header.

    Args:
        token: What may be one.
        where: Where it was found, for the error, which does not tell it.

    Raises:
        ClusterConfigError: It is none.
    """
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ClusterConfigError(f"{where} holds no token")
    return token


def expand_home(path: Path, what: str) -> Path:
    """A path whose ``~`` is the home folder.

    Raises:
        ClusterConfigError: There is no such home.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise ClusterConfigError(f"{path} ({what}) is in the home folder of nobody") from None
