"""sumgrad's source files: their list, their digest, and a copy that Ray can send to a cluster."""

import hashlib
import os
import shutil
from importlib import metadata
from pathlib import Path

import sumgrad

_DIGEST_CHARACTERS = 12
#: The endings of sumgrad's files. Backups and locks of editors are beside them.
_ENDINGS = (".py", ".yaml", ".typed")


def source_files(*folders: str) -> dict[str, Path]:
    """Return sumgrad's files by their names in the package, as in ``model/network.py``.

    With arguments, only those of these folders, or these files. In an editable installation
    `sumgrad` holds links to the source folders; they are followed.
    """
    root = Path(sumgrad.__file__).parent
    found = {}
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = [name for name in subfolders if name != "__pycache__"]
        for name in names:
            if name.endswith(_ENDINGS) and not name.startswith("."):
                file = Path(folder, name)
                found[file.relative_to(root).as_posix()] = file
    prefixes = tuple(f"{folder}/" for folder in folders) or ("",)
    return {name: found[name] for name in sorted(found) if f"{name}/".startswith(prefixes)}


def source_digest(*folders: str) -> str:
    """Return a digest of `source_files`; equal digests mean that the same code runs."""
    digest = hashlib.sha256()
    for name, file in source_files(*folders).items():
        digest.update(name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:_DIGEST_CHARACTERS]


def copy_source(target: Path) -> list[Path]:
    """Copy sumgrad into an existing folder, as real files, and return Ray's ``py_modules``.

    These are the package, and the metadata with its version.
    """
    for name, file in source_files().items():
        copy = target / "sumgrad" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    version = metadata.version("sumgrad")
    distribution = target / f"sumgrad-{version}.dist-info"
    distribution.mkdir()
    text = f"Metadata-Version: 2.1\nName: sumgrad\nVersion: {version}\n"
    (distribution / "METADATA").write_text(text, encoding="utf-8")
    return [target / "sumgrad", distribution]
