"""The import name, and heavy imports inside the functions that need them.

The contracts in pyproject.toml hold the order of the packages; `make check` runs them.
"""

import ast
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"ray", "mlflow", "sklearn", "pandas"}
#: Imported only by code that has imported Ray, MLflow or pandas already.
EXEMPT = {
    "cluster/ray_backend/launcher.py",
    "cluster/ray_backend/patches.py",
    "cluster/ray_backend/placement.py",
    "cluster/ray_backend/placement_groups.py",
    "cluster/ray_backend/reducer.py",
    "jobs/artifacts/pyfunc_model.py",
}


def top_level_imports(nodes: Iterable[ast.stmt]) -> Iterator[str]:
    """Yield the first part of every module that these statements import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).partition(".")[0]


@pytest.mark.parametrize("package", ["cluster", "jobs"])
def test_heavy_packages_are_imported_inside_functions(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        if str(path.relative_to(ROOT)) not in EXEMPT:
            heavy = HEAVY & set(top_level_imports(ast.parse(path.read_text()).body))
            assert not heavy, f"{path.relative_to(ROOT)} imports {heavy} at the top"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*build, str(folder)], cwd=ROOT, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder / "content")
    return folder / "content"


def test_the_wheel_holds_real_files(wheel: Path) -> None:
    for package in ("model", "cluster", "jobs"):
        sources = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}
        packed = {
            path.relative_to(wheel / "sumgrad")
            for path in (wheel / "sumgrad" / package).rglob("*.py")
            if not path.is_symlink()
        }
        assert packed == sources
    assert (wheel / "sumgrad/jobs/spec/examples/digits.yaml").is_file()
    assert (wheel / "sumgrad/py.typed").is_file()


@pytest.mark.parametrize("installed", ["editable", "wheel"])
def test_the_import_name_does_not_collide_with_a_users_modules(
    installed: str, wheel: Path, tmp_path: Path
) -> None:
    for name in ("model", "cluster", "jobs"):
        (tmp_path / f"{name}.py").write_text("mine = True\n")
    program = (
        "import model, cluster, jobs, sumgrad; from sumgrad.model import Network; "
        "print(model.mine, cluster.mine, jobs.mine, Network.__module__, sumgrad.__file__)"
    )
    origin = ROOT if installed == "editable" else wheel
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(origin)},
        capture_output=True,
        text=True,
        check=True,
    )
    *names, file = done.stdout.split()
    assert names == ["True", "True", "True", "sumgrad.model.network"]
    assert Path(file) == origin / "sumgrad" / "__init__.py"
