"""Which sumgrad this is, and a copy of it that is the same one."""

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from sumgrad.jobs.errors import ServiceUnreachable
from sumgrad.jobs.service import versions
from sumgrad.jobs.service.versions import (
    PACKAGES,
    Versions,
    code_digest,
    copy_code,
    package_folders,
)

HERE = Versions("0.1.0", "ab", "3.11", {"ray": "2.60.0", "numpy": "2.4.6"})


def test_what_is_here() -> None:
    here = Versions.here()
    assert here.sumgrad == metadata.version("sumgrad")
    assert here.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert set(here.libraries) == {"ray", "numpy", "mlflow", "pyarrow"}
    assert here.libraries["numpy"] == metadata.version("numpy")
    assert here.code == code_digest()
    assert Versions.from_json(here.as_json()) == here
    assert here.differences(here) == []


@pytest.mark.parametrize(
    "value",
    [
        *(None, 3, [], "x", {}, {"libraries": 3}, {"libraries": {}, "sumgrad": "1"}),
        {"sumgrad": "1", "code": "2", "python": "3"},
        {"sumgrad": "1", "code": "2", "python": "3", "libraries": ["ray"]},
    ],
)
def test_what_are_no_versions(value: object) -> None:
    with pytest.raises(ServiceUnreachable, match="cannot be understood"):
        Versions.from_json(value)


def test_differences_are_told_but_for_sumgrads_own() -> None:
    there = Versions("0.2.0", "cd", "3.12", {"ray": "2.60.0"})
    assert HERE.differences(there) == [
        "Python 3.11 here, 3.12 there",
        "numpy 2.4.6 here, none there",
    ]
    assert HERE.differences(Versions("9", "x", "3.11", HERE.libraries | {"more": "1"})) == []


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Small packages in the place of our own."""
    folders = [tmp_path / "source" / name for name in PACKAGES]
    for folder in folders:
        (folder / "inner" / "__pycache__").mkdir(parents=True)
        (folder / "__init__.py").write_text("")
        (folder / "inner" / "a.py").write_text("x = 1\n")
        (folder / "inner" / "spec.yaml").write_text("name: x\n")
        (folder / "inner" / "__pycache__" / "a.pyc").write_bytes(b"compiled")
    monkeypatch.setattr(versions, "package_folders", lambda: folders)
    return folders


def test_the_digest_is_of_sources_alone(packages: list[Path], tmp_path: Path) -> None:
    before = code_digest()
    shutil.rmtree(packages[0] / "inner" / "__pycache__")
    (packages[1] / "inner" / "__pycache__" / "b.pyc").write_bytes(b"other")
    (packages[1] / "empty").mkdir()
    assert code_digest() == before


@pytest.mark.parametrize("change", ["content", "name", "more", "fewer", "data"])
def test_every_change_of_a_source_changes_the_digest(packages: list[Path], change: str) -> None:
    before, file = code_digest(), packages[2] / "inner" / "a.py"
    if change == "content":
        file.write_text("x = 2\n")
    elif change == "name":
        file.rename(file.with_name("b.py"))
    elif change == "more":
        file.with_name("b.py").write_text("")
    elif change == "fewer":
        file.unlink()
    else:
        file.with_name("spec.yaml").write_text("name: y\n")
    assert code_digest() != before


def test_a_file_that_moves_between_packages_changes_the_digest(packages: list[Path]) -> None:
    (packages[0] / "b.py").write_text("y = 1\n")
    before = code_digest()
    (packages[0] / "b.py").rename(packages[1] / "b.py")
    assert code_digest() != before


def test_a_copy_has_the_sources_and_nothing_else(packages: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "copy"
    target.mkdir()
    copies = copy_code(target)
    package = copies[0] / PACKAGES[0]
    assert copies[0].name == "sumgrad"
    assert sorted(file.relative_to(package).as_posix() for file in package.rglob("*.*")) == [
        "__init__.py",
        "inner/a.py",
        "inner/spec.yaml",
    ]
    assert sorted(target.iterdir()) == sorted(copies)


def test_a_copy_is_the_same_sumgrad_and_comes_first(tmp_path: Path) -> None:
    copies = copy_code(tmp_path)
    program = (
        "import sumgrad; from importlib import metadata; "
        "from sumgrad.jobs.service.versions import code_digest; "
        "print(sumgrad.__file__, metadata.version('sumgrad'), code_digest())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    file, version, digest = done.stdout.split()
    assert Path(file).parent == copies[0]
    assert (version, digest) == (metadata.version("sumgrad"), code_digest())


def test_our_own_packages_are_found() -> None:
    assert [folder.name for folder in package_folders()] == list(PACKAGES)
    assert all((folder / "__init__.py").is_file() for folder in package_folders())
