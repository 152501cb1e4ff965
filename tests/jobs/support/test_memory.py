"""Too much for the machine is said before it is tried."""

import os
from pathlib import Path

import pytest

from sumgrad.jobs.cli.app import run
from sumgrad.jobs.data.prepare import prepare
from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.runs.job import build_job
from sumgrad.jobs.spec.loader import load_spec
from sumgrad.jobs.support import memory as room
from sumgrad.jobs.support.yaml import MAX_BYTES


def test_it_is_what_the_machine_or_its_container_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, limit, used = (tmp_path / name for name in ("meminfo", "max", "current"))
    monkeypatch.setattr(room, "_MEMORY_OF_MACHINE", machine)
    monkeypatch.setattr(room, "_MEMORY_OF_CONTAINER", ((limit, used),))
    machine.write_text("MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:    3000 kB\n")
    assert room.available_bytes() == 3000 * 1024
    limit.write_text("max\n")
    used.write_text("5000\n")
    assert room.available_bytes() == 3000 * 1024
    limit.write_text("105000\n")
    assert room.available_bytes() == 100_000
    limit.write_text("4000\n")
    assert room.available_bytes() == 0
    machine.write_text("something else")
    limit.unlink()
    assert room.available_bytes() > MAX_BYTES, "all memory that there is"


@pytest.mark.parametrize(
    "override", ["model.layers[0].units=2000000000", "model.layers[0].units=400000000"]
)
def test_a_network_that_no_machine_has_room_for(override: str) -> None:
    spec = load_spec("digits", [override]).spec
    with pytest.raises(SpecError, match=r"model\.layers: training .* parameters .* GiB") as caught:
        build_job(spec, prepare(spec))
    assert "fewer units" in caught.value.hint


def test_a_network_that_this_machine_has_just_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_spec("digits", ["model.layers[0].units=3"]).spec
    data = prepare(spec)
    # 64-3-10 has 235 parameters, microbatches of 32 rows and 80 inputs and outputs.
    needed = 4 * (8 * 235 + 3 * 32 * 80)
    monkeypatch.setattr(room, "available_bytes", lambda: needed)
    build_job(spec, data)
    monkeypatch.setattr(room, "available_bytes", lambda: needed - 1)
    with pytest.raises(SpecError):
        build_job(spec, data)


def test_memory_that_runs_out_all_the_same_is_no_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("Unable to allocate 3 GiB")

    monkeypatch.setattr("sumgrad.jobs.spec.loader.load_spec", fail)
    assert run(["config", "show", "digits"]) == 1
    assert "error: out of memory: Unable to allocate 3 GiB" in capsys.readouterr().err


def test_a_file_that_memory_has_just_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "arrays"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(OSError, match=r"has 1,024\.0 GiB, and this machine has .* free") as caught:
        room.check_memory_for_file(path)
    assert caught.value.filename == str(path)
    monkeypatch.setattr(room, "available_bytes", lambda: 2 << 40)
    room.check_memory_for_file(path)
    room.check_memory_for_file(path, max_bytes=1 << 40)
    with pytest.raises(OSError, match=r"has 1,099,511,627,776 bytes, expected at most 5"):
        room.check_memory_for_file(path, max_bytes=5)
    with pytest.raises(OSError, match="GiB of memory free"):
        room.check_memory_for_file(path, times=3)
    with pytest.raises(FileNotFoundError):
        room.check_memory_for_file(tmp_path / "nothing")


@pytest.mark.timeout(20)
def test_what_is_no_file_is_neither_read_nor_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), tmp_path):
        for ask in (room.check_memory_for_file, lambda path: room.read_small_file(path, 10)):
            with pytest.raises(OSError, match=r"it is (no regular file|a folder)"):
                ask(path)
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(OSError):
            room.read_small_file(pipe, 10)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before, "none stays open"


def test_no_more_is_read_than_may_be_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert room.read_small_file(path, 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        room.read_small_file(path, 4)
    os.truncate(path, 1 << 42)
    with pytest.raises(OSError, match="larger than 2 MiB"):
        room.read_small_file(path, 1 << 21)
