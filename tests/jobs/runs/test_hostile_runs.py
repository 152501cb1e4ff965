"""A run's directory that another program has edited is refused when it is opened."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sumgrad.jobs.cli.app import run
from sumgrad.jobs.errors import RunDamaged, RunNotFound, SpecError
from sumgrad.jobs.runs.directory import RunDirectory, all_runs, find_run
from sumgrad.jobs.runs.registry import format_run_table, list_runs
from sumgrad.jobs.spec.loader import load_spec
from sumgrad.jobs.tracking.metadata import RECORD
from sumgrad.jobs.tracking.outbox import Receipt
from tests.jobs.runs.records import RECORD_OF_A_RUN

RUN = "0123456789abcdef"
CLIMBING = ["../../x", "/etc/x", "a/../../b", "..", ".", "a/b", "", "\0", "x\n"]


def make(output: Path, run_id: str = RUN, started: str = RECORD_OF_A_RUN.started) -> RunDirectory:
    record = replace(RECORD_OF_A_RUN, run_id=run_id, started=started)
    return RunDirectory.create(output / run_id, record)


def alter(folder: RunDirectory, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder.path / RECORD
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "work" / "runs"


WRONG: dict[str, list[Any]] = {
    "run_id": [*CLIMBING, None, 5, ["a"]],
    "key": [None, 5, "' or 1=1"],
    "started": [None, 5, "yesterday", "2026-01-01\x1b00:00:00+00:00"],
    "tracking_uri": [
        *(None, 5, "", "runs", "file:///x", "http://["),
        *("sqlite:///../../x.db", "sqlite:////a\0"),
    ],
    "metadata": [None, [], {}, {"x": 1}],
    "metadata.name": [*CLIMBING, None, 5, {}],
    "metadata.datasets": [None, [None], [{}], {"context": "training"}],
    "metadata.folder": [None, 5, "", "runs", "../.."],
    "metadata.spec": [None, [1]],
    "metadata.tags": [None, {"a": 1}],
    "signature": [None, 5, "x", []],
    "end": [5, []],
    "end.status": [None, "RUNNING", []],
    "end.stop_reason": [None, 5],
    "end.step": [None, -1, 2**63, 1.5, True],
    "end.can_resume": [None, "yes"],
    "format": [None, 1, "2"],
    "extra": [1],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in WRONG.items() for value in values]
)
def test_a_wrong_field_is_named(output: Path, field: str, value: object) -> None:
    folder = make(output)
    above, _, name = field.rpartition(".")

    def change(record: dict[str, Any]) -> None:
        (record[above] if above else record)[name] = value

    alter(folder, change)
    pattern = rf"run\.json is damaged: the field '{re.escape(field)}[.'0-9a-z]*"
    with pytest.raises(RunDamaged, match=pattern) as caught:
        RunDirectory.open(folder.path)
    assert caught.value.message.isprintable()
    assert all_runs(output) == []


@pytest.mark.parametrize("name", ["run_id", "metadata", "signature"])
def test_a_missing_field_is_named(output: Path, name: str) -> None:
    folder = make(output)
    alter(folder, lambda record: record.pop(name))
    with pytest.raises(RunDamaged, match=rf"run\.json is damaged: .*'{name}'"):
        RunDirectory.open(folder.path)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"metadata": ' * 50_000,
        json.dumps({"format": 2, "signature": json.loads("[" * 500 + "]" * 500)}),
        "[]",
        "5",
        "",
        "\0" * 100,
        '{"a": ' + "1" * 5000 + "}",
    ],
)
def test_a_record_that_is_not_a_record_is_damaged(output: Path, text: str) -> None:
    folder = make(output)
    (folder.path / RECORD).write_text(text)
    with pytest.raises(RunDamaged, match=r"run\.json is damaged"):
        RunDirectory.open(folder.path)


def test_a_record_that_is_huge_or_no_file_is_not_read(output: Path) -> None:
    path = make(output).path
    os.truncate(path / RECORD, 1 << 40)
    with pytest.raises(RunDamaged, match=r"run\.json cannot be read: larger than 16 MiB"):
        RunDirectory.open(path)
    for put_there in (lambda file: file.symlink_to("/dev/zero"), os.mkfifo, Path.mkdir):
        (path / RECORD).unlink()
        put_there(path / RECORD)
        with pytest.raises(RunDamaged, match=r"run\.json cannot be read: it is (not|a) "):
            RunDirectory.open(path)
        if (path / RECORD).is_dir():
            break


def test_a_damaged_run_does_not_hide_others(output: Path) -> None:
    make(output, "old" + RUN, "2026-01-01T00:00:00+00:00")
    make(output, "new" + RUN, "2026-02-01T00:00:00+00:00")
    damaged = make(output)
    alter(damaged, lambda record: record.update(started=None))
    (output / ("x" * 255)).mkdir()
    listed = list_runs(output)
    assert [run["run_id"][:3] for run in listed] == ["new", "old"]


def test_the_stop_reason_is_shown_on_one_line(output: Path) -> None:
    folder = make(output)
    alter(folder, lambda record: record["end"].update(stop_reason="ValueError: a\n\x1b[2Jb"))
    lines = format_run_table(list_runs(output))
    assert len(lines) == 2
    assert all(map(str.isprintable, lines))


@pytest.mark.parametrize("name", [*CLIMBING, "x" * 5000, "../" * 2000])
def test_a_name_does_not_lead_out_of_the_output_folder(output: Path, name: str) -> None:
    make(output)
    make(output.parent.parent, "x")
    with pytest.raises(RunNotFound):
        find_run(name, output)


def test_a_directory_may_be_anywhere(output: Path, tmp_path: Path) -> None:
    """The user names it, as any other file."""
    made = make(tmp_path / "elsewhere")
    assert find_run(str(made.path), output).record == made.record


@pytest.mark.parametrize("name", [name for name in CLIMBING if name != "x\n"])
def test_a_jobs_name_is_no_path(name: str) -> None:
    if "\0" not in name:
        with pytest.raises(SpecError, match="should have only letters"):
            load_spec("digits", [f"name='{name}'"])


def test_mlflows_id_is_no_path(output: Path) -> None:
    folder = make(output)
    Receipt("../../x").write(folder.path)
    opened = RunDirectory.open(folder.path)
    assert opened.path == folder.path
    assert list_runs(output)[0]["folder"] == str(folder.path)


@pytest.mark.parametrize(
    "name", ["model", "checkpoints", "lock", "metrics.jsonl", "example.json", "checkpoints/step-1"]
)
@pytest.mark.parametrize("target", ["folder", "file", "nothing", "itself", "device"])
def test_a_link_that_leads_out_of_a_run_is_refused(
    output: Path, tmp_path: Path, name: str, target: str
) -> None:
    folder, outside = make(output), tmp_path / "outside"
    outside.mkdir()
    (outside / "step-000000001-epoch-000001").mkdir()
    (outside / "precious").write_text("kept")
    path = folder.path / name
    path.parent.mkdir(exist_ok=True)
    targets = {
        "folder": outside,
        "file": Path("../../..") / ("../" * name.count("/")) / "outside" / "precious",
        "nothing": outside / "nothing",
        "itself": path,
        "device": Path("/dev/zero"),
    }
    path.unlink(missing_ok=True)
    path.symlink_to(targets[target])
    with pytest.raises(RunDamaged, match=rf"{RUN} is refused: the link {path.name} leads out"):
        RunDirectory.open(folder.path)
    assert all_runs(output) == []
    for command in ("runs", "sync", "resume"):
        arguments = [command] if command == "runs" else [command, str(folder.path)]
        code = run([*arguments, "--output", str(output)])
        assert code == (0 if command == "runs" else 2)
    assert (outside / "precious").read_text() == "kept"
    assert sorted(path.name for path in outside.iterdir()) == [
        "precious",
        "step-000000001-epoch-000001",
    ]


def test_a_pipe_in_a_run_is_refused(output: Path) -> None:
    folder = make(output)
    os.mkfifo(folder.path / "lock")
    with pytest.raises(RunDamaged, match="lock is neither a file nor a folder"):
        RunDirectory.open(folder.path)


def test_links_inside_a_run_and_links_to_a_run_are_allowed(output: Path) -> None:
    folder = make(output)
    (folder.path / "model-1").mkdir()
    (folder.path / "model").symlink_to("model-1")
    (output / "latest").symlink_to(folder.path)
    assert RunDirectory.open(output / "latest").record == folder.record
