"""A copy of the code that a logged model needs, so that it loads where sumgrad is not installed.

MLflow puts a model's code first on ``sys.path`` of the process that loads it. The copy is therefore
a package named after its content: it neither hides an installed sumgrad nor is hidden by it, and
models of two versions can be used in one process.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sumgrad.jobs.support.source_digest import source_files

#: `sumgrad.jobs.artifacts.saved_model`, which loads models, and all that it imports.
REQUIRED = (
    *("model", "jobs/errors.py", "jobs/artifacts/saved_model.py", "jobs/data/schema.py"),
    *("jobs/support/files.py", "jobs/support/memory.py"),
)
_ENTRY = Path(__file__).with_name("pyfunc_model.py")
_DIGEST_CHARACTERS = 12
_WRITE_BY_OTHERS = 0o022


def copy_code(folder: Path) -> tuple[Path, Path]:
    """Copy MLflow's models-from-code file and, as a package, the code that a saved model needs."""
    sources = {name: path.read_text("utf-8") for name, path in source_files(*REQUIRED).items()}
    digest = hashlib.sha256("\0".join(sources.values()).encode()).hexdigest()
    package = f"sumgrad_{digest[:_DIGEST_CHARACTERS]}"
    for name, text in {**sources, "__init__.py": ""}.items():
        copy = folder / package / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(rename_package(text, package), "utf-8")
    entry = folder / _ENTRY.name
    entry.write_text(rename_package(_ENTRY.read_text("utf-8"), package), "utf-8")
    return entry, folder / package


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
