"""The list of sumgrad's files, its digest, and copies of the package."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import sumgrad
from sumgrad.jobs.support.source_digest import copy_source, source_digest, source_files


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package instead of sumgrad, with a link to a source folder beside it."""
    package, source = tmp_path / "sumgrad", tmp_path / "model"
    for folder in (package, source / "inner" / "__pycache__"):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "model").symlink_to("../model")
    (source / "__init__.py").write_text("")
    (source / "inner" / "a.py").write_text("x = 1\n")
    (source / "inner" / "spec.yaml").write_text("name: x\n")
    (source / "inner" / "__pycache__" / "a.pyc").write_bytes(b"compiled")
    monkeypatch.setattr(sumgrad, "__file__", str(package / "__init__.py"))
    return package


def test_files_are_listed_through_links_without_compiled_code(package: Path) -> None:
    names = ["__init__.py", "model/__init__.py", "model/inner/a.py", "model/inner/spec.yaml"]
    assert list(source_files()) == names
    assert list(source_files("model/inner")) == names[2:]
    assert list(source_files("model/inner/a.py", "nothing")) == names[2:3]
    assert list(source_files("mod")) == []


@pytest.mark.parametrize("change", ["content", "name", "more", "fewer", "data", "folder"])
def test_every_change_of_a_file_changes_the_digest(package: Path, change: str) -> None:
    before, file = source_digest(), package / "model" / "inner" / "a.py"
    match change:
        case "content":
            file.write_text("x = 2\n")
        case "name":
            file.rename(file.with_name("b.py"))
        case "more":
            file.with_name("b.py").write_text("")
        case "fewer":
            file.unlink()
        case "data":
            file.with_name("spec.yaml").write_text("name: y\n")
        case "folder":
            file.rename(file.parents[1] / "a.py")
    assert source_digest() != before


def test_compiled_code_and_empty_folders_do_not_change_the_digest(package: Path) -> None:
    before = source_digest()
    (package / "model" / "inner" / "__pycache__" / "b.pyc").write_bytes(b"other")
    (package / "model" / "empty").mkdir()
    assert source_digest() == before


def test_files_of_editors_and_systems_are_no_source_files(package: Path) -> None:
    before, folder = source_files(), package / "model" / "inner"
    for name in (".DS_Store", ".a.py.swp", "a.py~", "#a.py#", ".#b.py"):
        (folder / name).write_text("x")
    # Emacs locks a file by a link that leads nowhere.
    (folder / ".#a.py").symlink_to("user@machine.1:2")
    assert source_files() == before


def test_a_digest_of_one_folder_ignores_the_others(package: Path) -> None:
    before = source_digest("model")
    (package / "__init__.py").write_text("changed = True\n")
    assert source_digest("model") == before


def test_the_digest_covers_all_of_sumgrad() -> None:
    names = source_files()
    assert {"__init__.py", "model/network.py", "cluster/errors.py", "jobs/errors.py"} <= set(names)
    assert not any("__pycache__" in name for name in names)


def test_a_copy_holds_real_files_and_is_the_same_sumgrad(tmp_path: Path) -> None:
    copies = copy_source(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(copies)
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))
    program = (
        "import sumgrad; from importlib import metadata; "
        "from sumgrad.jobs.support.source_digest import source_digest; "
        "print(sumgrad.__file__, metadata.version('sumgrad'), source_digest())"
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
    assert (version, digest) == (metadata.version("sumgrad"), source_digest())
