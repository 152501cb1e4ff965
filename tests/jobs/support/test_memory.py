"""What does not fit into memory is refused before it is tried."""

import os
from pathlib import Path

import pytest

from sumgrad.jobs.cli.app import run
from sumgrad.jobs.data.prepare import prepare
from sumgrad.jobs.errors import SpecError
from sumgrad.jobs.runs.build import build_job
from sumgrad.jobs.spec.loader import load_spec
from sumgrad.jobs.support import memory


def test_available_memory_is_limited_by_the_machine_and_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, used = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(memory, "_available_on_machine", lambda: 3_000_000)
    monkeypatch.setattr(memory, "_CONTAINER_MEMORY", ((limit, used),))
    assert memory.available_bytes() == 3_000_000
    used.write_text("5000\n")
    statistics = tmp_path / "memory.stat"
    statistics.write_text("anon 5000\n")
    for limited, available in [("max", 3_000_000), ("105000", 100_000), ("4000", 0)]:
        limit.write_text(f"{limited}\n")
        assert memory.available_bytes() == available
    # Both versions of cgroups count files that were read, which are dropped when memory is needed.
    for cached in ("inactive_file 4500\n", "inactive_file 10\ntotal_inactive_file 4500\n"):
        statistics.write_text(f"file 4900\n{cached}active_file 400\n")
        assert memory.available_bytes() == 3500
    monkeypatch.undo()
    assert memory.available_bytes() > 1 << 20


@pytest.mark.parametrize(
    "override", ["model.layers[0].units=2000000000", "model.layers[0].units=400000000"]
)
def test_a_network_that_does_not_fit_into_memory_is_refused(override: str) -> None:
    spec = load_spec("digits", [override]).spec
    with pytest.raises(SpecError, match=r"model\.layers: training .* parameters .* GiB") as caught:
        build_job(spec, prepare(spec))
    assert "fewer units" in caught.value.hint


def test_the_memory_of_a_network_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_spec("digits", ["model.layers[0].units=3"]).spec
    data = prepare(spec)
    # 64-3-10 has 235 parameters, microbatches of 32 rows and 80 inputs and outputs.
    needed = 4 * (8 * 235 + 3 * 32 * 80)
    monkeypatch.setattr(memory, "available_bytes", lambda: needed)
    build_job(spec, data)
    monkeypatch.setattr(memory, "available_bytes", lambda: needed - 1)
    with pytest.raises(SpecError):
        build_job(spec, data)


def test_running_out_of_memory_is_reported_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("Unable to allocate 3 GiB")

    monkeypatch.setattr("sumgrad.jobs.spec.loader.load_spec", fail)
    assert run(["config", "show", "digits"]) == 1
    assert "error: out of memory: Unable to allocate 3 GiB" in capsys.readouterr().err


def test_the_memory_for_a_file_is_checked_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "arrays"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(OSError, match=r"has 1,024\.0 GiB, and this machine has .* free") as caught:
        memory.check_memory_for_file(path)
    assert caught.value.filename == str(path)
    monkeypatch.setattr(memory, "available_bytes", lambda: 2 << 40)
    memory.check_memory_for_file(path)
    memory.check_memory_for_file(path, max_bytes=1 << 40)
    with pytest.raises(OSError, match=r"has 1,099,511,627,776 bytes, expected at most 5"):
        memory.check_memory_for_file(path, max_bytes=5)
    with pytest.raises(OSError, match="GiB of memory free"):
        memory.check_memory_for_file(path, times=3)
    with pytest.raises(FileNotFoundError):
        memory.check_memory_for_file(tmp_path / "nothing")


@pytest.mark.timeout(20)
def test_pipes_devices_and_folders_are_not_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), tmp_path):
        for ask in (memory.check_memory_for_file, lambda path: memory.read_small_file(path, 10)):
            with pytest.raises(OSError, match=r"it is (not a regular file|a folder)"):
                ask(path)
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(OSError):
            memory.read_small_file(pipe, 10)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert memory.read_small_file(path, 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        memory.read_small_file(path, 4)
    os.truncate(path, 1 << 42)
    with pytest.raises(OSError, match="larger than 2 MiB"):
        memory.read_small_file(path, 1 << 21)
