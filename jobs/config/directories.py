"""Where the user's own files are, by the XDG Base Directory Specification."""

import os
from pathlib import Path


def user_directory(variable: str, default: str) -> Path:
    """Return sumgrad's folder below a user's configuration, cache or state.

    Args:
        variable: The variable that names the folder above it, if it holds an absolute path.
        default: Otherwise that folder, relative to the home folder.
    """
    base = Path(os.environ.get(variable) or "")
    # Path.home raises for a user without one; here using the folder fails later, with its name.
    above = base if base.is_absolute() else Path(os.path.expanduser("~"), default)  # noqa: PTH111
    return above / "sumgrad"


def local_cluster_directory() -> Path:
    """Return where the cluster of ``sumgrad cluster up`` keeps its token, logs, curves and runs."""
    return user_directory("XDG_STATE_HOME", ".local/state") / "cluster"
