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
    unknown = [n for n in sorted(names) if n.upper().startswith(_PREFIX) and n not in VARIABLES]
    return [
        f"{name} is unknown to sumgrad; did you mean {_PREFIX}{meant}?"
        for name in unknown
        if (meant := _most_similar(name)) is not None
    ]


def _most_similar(name: str) -> str | None:
    """Return the known name closest to another, without the common prefix."""
    known = [variable.removeprefix(_PREFIX) for variable in VARIABLES]
    typed = name.upper().removeprefix(_PREFIX)
    return next(iter(difflib.get_close_matches(typed, known, 1, _MIN_SIMILARITY)), None)
