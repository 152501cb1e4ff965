"""Versions of what computes a job: compared by the job itself, before its first step."""

import logging
import platform
from importlib import metadata
from typing import Self

from pydantic.dataclasses import dataclass

from sumgrad.jobs.errors import VersionMismatch
from sumgrad.jobs.support.source_digest import source_digest

_logger = logging.getLogger(__name__)
#: The errors about versions start with it, and so does Ray's record of a job that one has ended.
VERSION_MISMATCH = "the cluster has other versions"
#: How to install everything on a machine; no package index has sumgrad.
INSTALL_HINT = "pip install --constraint constraints.txt '.[cluster]' in sumgrad's folder"
#: A difference may change the weights, or keep a job from running.
_MUST_MATCH = ("Python", "ray", "numpy")
_LIBRARIES = ("ray", "numpy", "mlflow", "pyarrow")
_MISSING = "none"


@dataclass(frozen=True)
class Versions:
    """Versions of Python, of sumgrad and of the libraries that results depend on."""

    sumgrad: str
    code: str  #: A digest of sumgrad's source files.
    python: str  #: Major and minor version; Ray needs the same on all machines.
    libraries: dict[str, str]  #: ``none`` for a library that is not installed.

    @classmethod
    def here(cls) -> Self:
        """Return the versions of this process."""
        return cls(
            _installed("sumgrad"),
            source_digest(),
            ".".join(platform.python_version_tuple()[:2]),
            {name: _installed(name) for name in _LIBRARIES},
        )

    @property
    def missing(self) -> list[str]:
        """Libraries that are not installed."""
        return [name for name, version in self.libraries.items() if version == _MISSING]

    def differences(self, there: "Versions") -> dict[str, str]:
        """Return a line for each version that differs, sumgrad's own aside, by name.

        >>> here = Versions("0.1.0", "ab", "3.11", {"ray": "2.60.0"})
        >>> list(here.differences(Versions("0.1.0", "ab", "3.12", {"ray": "2.59.0"})).values())
        ['Python 3.11 here, 3.12 on the cluster', 'ray 2.60.0 here, 2.59.0 on the cluster']
        """
        here = {"Python": self.python, **self.libraries}
        found = {"Python": there.python, **there.libraries}
        return {
            name: _line(name, version, found.get(name, _MISSING))
            for name, version in here.items()
            if version != found.get(name, _MISSING)
        }


def check_versions(
    submitted: Versions, found: Versions, *, has_code: bool, allow_mismatch: bool = False
) -> None:
    """Raise if a job runs with versions that may change its weights; log other differences.

    The code must be the same to the byte if it was sent along (``has_code``). With
    ``allow_mismatch``, log every difference and raise only for what is not installed. The
    `VersionMismatch` names everything that differs.
    """
    if found.missing:
        problem = f"{VERSION_MISMATCH}: {', '.join(found.missing)} not installed"
        raise VersionMismatch(problem, hint=INSTALL_HINT)
    differences = submitted.differences(found)
    fatal = [differences.pop(name) for name in _MUST_MATCH if name in differences]
    harmless = list(differences.values())
    if submitted.code != found.code:
        here, there = (f"{each.sumgrad} ({each.code})" for each in (submitted, found))
        (fatal if has_code else harmless).append(_line("sumgrad", here, there))
    if fatal and not allow_mismatch:
        raise VersionMismatch(
            f"{VERSION_MISMATCH}: {'; '.join(fatal)}",
            hint="install the same versions there, or submit with --allow-version-mismatch: the "
            "weights may then differ",
        )
    for line in (*fatal, *harmless):
        _logger.warning("versions differ: %s", line)


def _line(name: str, here: str, cluster: str) -> str:
    return f"{name} {here} here, {cluster} on the cluster"


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return _MISSING
