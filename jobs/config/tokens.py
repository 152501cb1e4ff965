"""Files that hold a token and nothing else."""

import stat
from pathlib import Path

from sumgrad.jobs.config.directories import local_cluster_directory
from sumgrad.jobs.errors import ClusterConfigError
from sumgrad.jobs.support.memory import read_small_file

_MAX_BYTES = 1 << 16


def read_token(path: Path, name: str) -> str:
    """Return the token in a file; ``name`` is the option, key or variable that names the file.

    Raise `ClusterConfigError` if it cannot be read, holds no token, or is writable by others.
    """
    path = expand_home(path, name)
    source, hint = f"{path} ({name})", _lost_token_hint(path)
    try:
        mode = path.stat().st_mode
        token = read_small_file(path, _MAX_BYTES).decode("ascii").strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not an ASCII text file"
        raise ClusterConfigError(f"{source} cannot be read: {why}", hint=hint) from None
    check_token(token, source, hint)
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ClusterConfigError(f"{source} can be written by others", hint=f"chmod 600 {path}")
    return token


def check_token(token: str, source: str, hint: str = "") -> str:
    """Return a token that an HTTP header can hold, or raise `ClusterConfigError`.

    The error names the token's source and does not contain the token.
    """
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ClusterConfigError(f"{source} holds no token", hint=hint)
    return token


def expand_home(path: Path, name: str) -> Path:
    """Return a path without ``~``, or raise `ClusterConfigError` if its user does not exist."""
    try:
        return path.expanduser()
    except RuntimeError:
        problem = f"{path} ({name}) names a home folder that does not exist"
        raise ClusterConfigError(problem) from None


def _lost_token_hint(file: Path) -> str:
    """Return how to replace a token file that is lost or damaged."""
    if file == local_cluster_directory() / "token":
        return f"'sumgrad cluster down', 'rm -f {file}' and 'sumgrad cluster up' create a new one"
    return f"copy the cluster's token into {file}; the cluster's administrator has it"
