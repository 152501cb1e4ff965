"""Too much for the machine is said before it is tried."""

from pathlib import Path

import pytest

from jobs import room
from jobs.assembly import assemble
from jobs.cli.boundary import run
from jobs.data.prepare import prepare
from jobs.errors import SpecError
from jobs.spec_loader import load_spec
from jobs.yaml_tree import MAX_BYTES


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
        assemble(spec, prepare(spec))
    assert "fewer units" in caught.value.hint


def test_a_network_that_this_machine_has_just_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_spec("digits", ["model.layers[0].units=3"]).spec
    data = prepare(spec)
    # 64-3-10 has 235 parameters, micro-shards of 32 rows and 80 inputs and outputs.
    needed = 4 * (8 * 235 + 3 * 32 * 80)
    monkeypatch.setattr(room, "available_bytes", lambda: needed)
    assemble(spec, data)
    monkeypatch.setattr(room, "available_bytes", lambda: needed - 1)
    with pytest.raises(SpecError):
        assemble(spec, data)


def test_memory_that_runs_out_all_the_same_is_no_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("Unable to allocate 3 GiB")

    monkeypatch.setattr("jobs.spec_loader.load_spec", fail)
    assert run(["config", "show", "digits"]) == 1
    assert "error: out of memory: Unable to allocate 3 GiB" in capsys.readouterr().err
