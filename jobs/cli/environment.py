"""The variables of the environment that commands read, and what looks like one of them."""

import difflib
from collections.abc import Iterable

_PREFIX = "SUMGRAD_"
#: What each does is told in docs/service.md.
VARIABLES = tuple(
    f"{_PREFIX}{name}"
    for name in ("CLUSTER", "CONFIG", "DEBUG", "OUTPUT", "PYTHON", "TRACKING_TOKEN_FILE")
)
#: So much alike two names are of which one is likely the other, misspelled_variables.
_ALIKE = 0.75


def misspelled_variables(names: Iterable[str]) -> list[str]:
    """A line for each variable that nobody reads, and that is almost one that is read.

    >>> misspelled_variables(["SUMGRAD_CLUSTR", "SUMGRAD_OUTPUT", "SUMGRAD_WORKER_CPUS", "HOME"])
    ['SUMGRAD_CLUSTR means nothing to sumgrad; did you mean SUMGRAD_CLUSTER?']

    Args:
        names: Of all variables that there are.
    """
    ours = (name for name in sorted(names) if name.upper().startswith(_PREFIX))
    return [
        f"{name} means nothing to sumgrad; did you mean {_PREFIX}{meant}?"
        for name in ours
        if name not in VARIABLES and (meant := _nearest(name)) is not None
    ]


def _nearest(name: str) -> str | None:
    """The one that is most alike, without what all of them begin with."""
    known = [variable.removeprefix(_PREFIX) for variable in VARIABLES]
    found = difflib.get_close_matches(name.upper().removeprefix(_PREFIX), known, 1, _ALIKE)
    return found[0] if found else None
