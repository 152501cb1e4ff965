"""Where the user's own files are, by the XDG Base Directory Specification."""

import os
from pathlib import Path

from sumgrad.jobs.support.files import expand_user


def user_directory(variable: str, default: str) -> Path:
    """Return sumgrad's folder below the one that a variable names, if that is an absolute path.

    Otherwise it is below ``default``, which is relative to the home folder.
    """
    base = Path(os.environ.get(variable) or "")
    above = base if base.is_absolute() else expand_user(f"~/{default}")
    return above / "sumgrad"


def local_cluster_directory() -> Path:
    """Return where the cluster of ``sumgrad cluster up`` keeps its token, logs, curves and runs."""
    return user_directory("XDG_STATE_HOME", ".local/state") / "cluster"
