"""Which sumgrad this is, to the bit, and how it travels to a cluster that has another one."""

import hashlib
import platform
import shutil
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import sumgrad
from sumgrad.jobs.errors import ServiceUnreachable

#: The packages that are sumgrad.
PACKAGES = ("model", "cluster", "jobs")
#: What brings all of it to a machine; no index has it.
INSTALL_HINT = "pip install --constraint constraints.txt '.[cluster]' in sumgrad's folder"
_DIGEST_CHARACTERS = 12
#: Libraries whose versions are told; a mixture of NumPys is refused by the workers' fingerprints.
_LIBRARIES = ("ray", "numpy", "mlflow", "pyarrow")
#: Of these a difference may change the weights or keep a job from running.
MUST_MATCH = ("Python", "ray", "numpy")


@dataclass(frozen=True)
class Versions:
    """What computes a job.

    Attributes:
        sumgrad: Its version.
        code: A digest of its source files.
        python: Major and minor version; Ray needs them to be the same on all machines.
        libraries: Versions of the libraries that results or connections depend on.
    """

    sumgrad: str
    code: str
    python: str
    libraries: dict[str, str]

    @classmethod
    def here(cls) -> Self:
        """Of this process."""
        return cls(
            metadata.version("sumgrad"),
            code_digest(),
            ".".join(platform.python_version_tuple()[:2]),
            {name: metadata.version(name) for name in _LIBRARIES},
        )

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """What `as_json` gave.

        Raises:
            ServiceUnreachable: It is something else.
        """
        try:
            libraries = {str(k): str(v) for k, v in value["libraries"].items()}
            sumgrad, code, python = (str(value[key]) for key in ("sumgrad", "code", "python"))
        except (KeyError, TypeError, AttributeError):
            raise ServiceUnreachable("the cluster's versions cannot be understood") from None
        return cls(sumgrad, code, python, libraries)

    def as_json(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def differences(self, there: "Versions") -> list[str]:
        """In what another place is not the same, but for sumgrad itself; empty if in nothing.

        >>> here = Versions("0.1.0", "ab", "3.11", {"ray": "2.60.0"})
        >>> here.differences(Versions("0.1.0", "ab", "3.12", {"ray": "2.59.0"}))
        ['Python 3.11 here, 3.12 there', 'ray 2.60.0 here, 2.59.0 there']
        """
        return [f"{what} {one} here, {other} there" for what, one, other in self.differing(there)]

    def differing(self, other: "Versions") -> list[tuple[str, str, str]]:
        """What is not the same, but for sumgrad itself: its name, and how it is in both."""
        pairs = [("Python", self.python, other.python)]
        pairs += [
            (name, version, other.libraries.get(name, "none"))
            for name, version in self.libraries.items()
        ]
        return [pair for pair in pairs if pair[1] != pair[2]]


def package_folders() -> list[Path]:
    """The folders of sumgrad's packages."""
    root = Path(sumgrad.__file__).parent
    return [root / name for name in PACKAGES]


def code_digest() -> str:
    """A digest of sumgrad's files: two places with the same one run the same code."""
    digest = hashlib.sha256()
    for folder in package_folders():
        for file in _files(folder):
            digest.update(f"{folder.name}/{file.relative_to(folder).as_posix()}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:_DIGEST_CHARACTERS]


def copy_code(target: Path) -> list[Path]:
    """Copy sumgrad's packages into a folder, and what tells their version.

    Returns:
        The copies: what Ray calls ``py_modules``, which come first on the module path there.
    """
    package = target / "sumgrad"
    package.mkdir()
    root = Path(sumgrad.__file__).parent
    for name in ("__init__.py", "py.typed"):
        shutil.copyfile(root / name, package / name)
    for folder in package_folders():
        copy = package / folder.name
        for file in _files(folder):
            place = copy / file.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
    facts = target / f"sumgrad-{metadata.version('sumgrad')}.dist-info"
    facts.mkdir()
    text = f"Metadata-Version: 2.1\nName: sumgrad\nVersion: {metadata.version('sumgrad')}\n"
    (facts / "METADATA").write_text(text, encoding="utf-8")
    return [package, facts]


def _files(folder: Path) -> list[Path]:
    """Sources and the files beside them, in the order of their names."""
    found = (file for file in folder.rglob("*") if file.is_file())
    return sorted(file for file in found if "__pycache__" not in file.parts)
