"""Imports point one way: model ← cluster ← jobs; and heavy ones stand where they are used."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "model": {"model", "numpy"},
    "cluster": {"model", "cluster", "numpy", "ray", "threadpoolctl"},
}
ONLY_WITHIN_FUNCTIONS = {"cluster": {"ray"}, "jobs": {"ray", "mlflow", "sklearn", "pandas"}}
#: Loaded only once Ray, MLflow or pandas is wanted.
EXEMPT = {
    "cluster/ray_backend/reducer.py",
    "cluster/ray_backend/placement.py",
    "jobs/artifacts/pyfunc_model.py",
}


def sources(package: str) -> list[Path]:
    """Every module of a package."""
    return sorted((ROOT / package).rglob("*.py"))


def imported(nodes: Iterator[ast.AST] | list[ast.stmt]) -> Iterator[str]:
    """Top-level names that these nodes import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            yield str(node.module).partition(".")[0]


def standard(name: str) -> bool:
    """Whether it comes with Python."""
    import sys

    return name in sys.stdlib_module_names


@pytest.mark.parametrize("package", ["model", "cluster"])
def test_a_package_imports_only_what_it_may(package: str) -> None:
    for path in sources(package):
        names = set(imported(ast.walk(ast.parse(path.read_text()))))
        foreign = {name for name in names if not standard(name)} - MAY_IMPORT[package]
        assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}"


@pytest.mark.parametrize("package", ["cluster", "jobs"])
def test_heavy_imports_stand_inside_functions(package: str) -> None:
    for path in sources(package):
        if str(path.relative_to(ROOT)) in EXEMPT:
            continue
        names = set(imported(ast.parse(path.read_text()).body))
        heavy = names & ONLY_WITHIN_FUNCTIONS[package]
        assert not heavy, f"{path.relative_to(ROOT)} imports {heavy} at the top"
