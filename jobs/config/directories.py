"""Where things of a user's own are, by the rules of the XDG Base Directory Specification."""

import os
from pathlib import Path


def user_directory(variable: str, default: str) -> Path:
    """Our folder below a user's configuration, cache or state.

    Args:
        variable: Names the folder above it, if it holds an absolute path.
        default: That folder below the home folder, where the variable does not.
    """
    base = Path(os.environ.get(variable) or "")
    # Path.home raises where there is none. What is given then cannot be used, which is told later.
    above = base if base.is_absolute() else Path(os.path.expanduser("~"), default)  # noqa: PTH111
    return above / "sumgrad"


def local_cluster_directory() -> Path:
    """Return where the cluster of ``sumgrad cluster up`` keeps its token, logs, curves and runs."""
    return user_directory("XDG_STATE_HOME", ".local/state") / "cluster"
