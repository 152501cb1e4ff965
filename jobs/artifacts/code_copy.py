"""A copy of the code that a logged model needs, so that it loads where sumgrad is not installed.

MLflow puts a model's code first on ``sys.path`` of the process that loads it. The copy is therefore
a package named after its content: it neither hides an installed sumgrad nor is hidden by it, and
models of two versions can be used in one process.
"""

import ast
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sumgrad.jobs.support.source_digest import source_files

#: The module that loads saved models; its imports decide what is copied.
ROOT = "jobs.artifacts.saved_model"
_DIGEST_CHARACTERS = 12
_WRITE_BY_OTHERS = 0o022


def copy_code(entry: Path, folder: Path) -> tuple[Path, Path]:
    """Copy MLflow's models-from-code file and, as a package, the code that a saved model needs."""
    sources = {name: path.read_text("utf-8") for name, path in required_files(ROOT).items()}
    digest = hashlib.sha256("\0".join(sources.values()).encode()).hexdigest()
    package = f"sumgrad_{digest[:_DIGEST_CHARACTERS]}"
    for name, text in {**sources, "__init__.py": ""}.items():
        copy = folder / package / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(rename_package(text, package), "utf-8")
    copied = folder / entry.name
    copied.write_text(rename_package(entry.read_text("utf-8"), package), "utf-8")
    return copied, folder / package


def required_files(module: str) -> dict[str, Path]:
    """Return the files of a module of sumgrad and of those it imports, by their relative names."""
    available = source_files()
    found: dict[str, Path] = {}
    pending = [module]
    while pending:
        name = pending.pop()
        path = name.replace(".", "/")
        file = next((f for f in (f"{path}.py", f"{path}/__init__.py") if f in available), "")
        if file and file not in found:
            found[file] = available[file]
            pending += [name.rpartition(".")[0], *_imports(found[file].read_text("utf-8"))]
    return dict(sorted(found.items()))


def _imports(source: str) -> Iterator[str]:
    """Yield the names of modules that a module imports from sumgrad."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sumgrad."):
            module = (node.module or "").removeprefix("sumgrad.")
            yield module
            # `from package import name` can import a module of the package.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def rename_package(source: str, package: str) -> str:
    r"""Return the source with its imports from sumgrad made from another package.

    >>> rename_package("from sumgrad.model.errors import ModelError\n", "sumgrad_ab")
    'from sumgrad_ab.model.errors import ModelError\n'
    """
    return re.sub(r"^(\s*from )sumgrad\.", rf"\1{package}.", source, flags=re.MULTILINE)


@contextmanager
def no_write_by_others() -> Iterator[None]:
    """Create files that only their owner can write, whatever the umask.

    They are code, which runs in every process that loads the model.
    """
    umask = os.umask(_WRITE_BY_OTHERS)
    os.umask(umask | _WRITE_BY_OTHERS)
    try:
        yield
    finally:
        os.umask(umask)
