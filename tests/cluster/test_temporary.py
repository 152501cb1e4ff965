"""Temporary directories: private, removed at the end, and after their owner was killed."""

import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sumgrad.cluster import temporary
from sumgrad.cluster.temporary import make_private_directory, temporary_directory

_OWNER = """
import sys, time
from sumgrad.cluster.temporary import temporary_directory
with temporary_directory() as directory:
    (directory / "ray").mkdir()
    (directory / "ray" / "socket").touch()
    print(directory, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(temporary, "_MAX_PARENT_LENGTH", 1000)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def owner(parent: Path) -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """A process that has a directory, and that directory."""
    code = f"import sumgrad.cluster.temporary as t; t._MAX_PARENT_LENGTH = 1000\n{_OWNER}"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_a_directory_is_private_and_is_removed_at_the_end(parent: Path) -> None:
    with temporary_directory("doctor-") as directory:
        assert directory.name.startswith("sumgrad-doctor-")
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        (directory / "file").touch()
    assert list(parent.iterdir()) == []


def test_the_directory_of_a_killed_process_is_removed_at_the_next_start(
    parent: Path, owner: tuple["subprocess.Popen[str]", Path]
) -> None:
    process, directory = owner
    with temporary_directory():
        assert (directory / "ray" / "socket").exists(), "its owner is running"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert directory.exists()
    with temporary_directory() as own:
        assert list(parent.iterdir()) == [own]


def test_other_directories_are_never_removed(parent: Path) -> None:
    target = parent / "target"
    target.mkdir()
    (target / "owner.lock").touch()
    (parent / "sumgrad-link").symlink_to(target)
    public = parent / "sumgrad-public"
    public.mkdir()
    public.chmod(0o755)
    (public / "owner.lock").touch()
    kept = make_private_directory("sumgrad-up-")
    with temporary_directory():
        pass
    assert {path.name for path in parent.iterdir()} == {
        "target",
        "sumgrad-link",
        "sumgrad-public",
        kept.name,
    }
    assert (target / "owner.lock").exists()


def test_what_cannot_be_removed_now_is_removed_later(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, temporary_directory() as directory:
        (directory / "busy").mkdir()
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
    assert (directory / "busy").exists()
    with temporary_directory():
        assert not directory.exists()
