"""Environment variables: those that commands read, and those that NumPy needs."""

import difflib
import os
from collections.abc import Iterable

_PREFIX = "SUMGRAD_"
#: docs/cli.md describes each of them.
VARIABLES = tuple(
    f"{_PREFIX}{name}"
    for name in ("CLUSTER", "CONFIG", "DEBUG", "OUTPUT", "PYTHON", "TRACKING_TOKEN_FILE")
)
#: How similar an unknown name has to be to a known one to be taken for a typing error.
_MIN_SIMILARITY = 0.75


def limit_blas_threads() -> None:
    """Give NumPy one BLAS thread, unless the user has chosen otherwise; call it before NumPy."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def misspelled_variables(names: Iterable[str]) -> list[str]:
    """Return a line for each variable that nothing reads and that resembles one of sumgrad's.

    >>> misspelled_variables(["SUMGRAD_CLUSTR", "SUMGRAD_OUTPUT", "SUMGRAD_WORKER_CPUS", "HOME"])
    ['SUMGRAD_CLUSTR is unknown to sumgrad; did you mean SUMGRAD_CLUSTER?']
    """
    known = [variable.removeprefix(_PREFIX) for variable in VARIABLES]
    lines = []
    for name in sorted(names):
        if name.upper().startswith(_PREFIX) and name not in VARIABLES:
            typed = name.upper().removeprefix(_PREFIX)
            close = difflib.get_close_matches(typed, known, 1, _MIN_SIMILARITY)
            lines += [f"{name} is unknown to sumgrad; did you mean {_PREFIX}{c}?" for c in close]
    return lines
