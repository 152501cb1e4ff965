"""A private copy of the code that a logged model needs, under a name that nobody else has.

MLflow puts a model's code first on ``sys.path`` of whoever loads it. Packages called ``model`` and
``jobs`` would hide the user's own modules of those names there, or be hidden by them where they
were imported first. So the copy lives in one package named after its content, as pip's vendored
libraries do, and its absolute imports are rewritten to match. Two models of different sumgrad
versions then also live in one process.
"""

import ast
import functools
import hashlib
import importlib.util
from pathlib import Path

#: The packages whose modules are copied; everything else is a requirement.
OURS = ("sumgrad",)
ROOT = "sumgrad.jobs.artifacts.saved_model"
_DIGEST_CHARACTERS = 12


def copy_code(entry: Path, folder: Path) -> tuple[Path, Path]:
    """Copy `sumgrad.jobs.artifacts.saved_model` and whatever of ours it imports.

    Args:
        entry: The models-from-code file; it gets the same rewriting.
        folder: An existing folder for both copies.

    Returns:
        The copied entry file, and the package's folder.
    """
    sources = {name: (path, path.read_text("utf-8")) for name, path in closure(ROOT).items()}
    digest = hashlib.sha256("\0".join(text for _, text in sources.values()).encode())
    package = f"sumgrad_{digest.hexdigest()[:_DIGEST_CHARACTERS]}"
    for name, (path, text) in sources.items():
        is_package = path.name == "__init__.py"
        parts = name.split(".")[1:]
        target = folder.joinpath(package, *parts, *(["__init__"] if is_package else []))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_name(f"{target.name}.py").write_text(rewrite(text, package), "utf-8")
    copied = folder / entry.name
    copied.write_text(rewrite(entry.read_text("utf-8"), package), "utf-8")
    return copied, folder / package


def closure(root: str) -> dict[str, Path]:
    """A module, the modules of ours that it imports, and their packages: name and file."""
    found: dict[str, Path] = {}
    todo = [root]
    while todo:
        name = todo.pop()
        path = _file(name)
        if path is None or name in found:
            continue
        found[name] = path
        todo += name.rpartition(".")[:1]
        for statement in _our_imports(path.read_text("utf-8")):
            module = statement.module or ""
            # `from package import name` may mean a module or a thing inside of it.
            todo += [module, *(f"{module}.{alias.name}" for alias in statement.names)]
    return dict(sorted(found.items()))


def rewrite(source: str, package: str) -> str:
    r"""Return the source with ``from sumgrad…`` pointing into another package.

    >>> rewrite("from sumgrad.model.errors import ModelError\n", "sumgrad_ab")
    'from sumgrad_ab.model.errors import ModelError\n'
    """
    lines = source.splitlines(keepends=True)
    for statement in _our_imports(source):
        line = lines[statement.lineno - 1]
        before, after = line[: statement.col_offset], line[statement.col_offset :]
        lines[statement.lineno - 1] = before + after.replace("from sumgrad", f"from {package}", 1)
    return "".join(lines)


@functools.cache
def _our_imports(source: str) -> list[ast.ImportFrom]:
    nodes = list(ast.walk(ast.parse(source)))
    for node in nodes:
        if isinstance(node, ast.Import) and any(_is_ours(alias.name) for alias in node.names):
            raise ValueError(f"line {node.lineno}: write 'from {node.names[0].name} import …'")
    return [
        node
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.level == 0 and _is_ours(node.module or "")
    ]


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in OURS


def _file(module: str) -> Path | None:
    """The module's source file; None for names that are no modules."""
    try:
        spec = importlib.util.find_spec(module)
    except (ModuleNotFoundError, AttributeError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None
