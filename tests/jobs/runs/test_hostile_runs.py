"""A run's folder that somebody else has had in hand: refused when it is opened, and harmless."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sumgrad.jobs.cli.app import run
from sumgrad.jobs.errors import RunNotFound, SpecError
from sumgrad.jobs.runs.directory import (
    RECORD,
    RunDirectory,
    RunEnd,
    RunRecord,
    all_runs,
    find_run,
)
from sumgrad.jobs.runs.registry import list_runs, table
from sumgrad.jobs.runs.sync import link_to
from sumgrad.jobs.spec.loader import load_spec
from sumgrad.jobs.tracking import DirectClient

RUN = "0123456789abcdef"
CLIMBING = ["../../x", "/etc/x", "a/../../b", "..", ".", "a/b", "", "\0", "x\n"]
FACTS: dict[str, Any] = {
    "name": "job",
    "experiment": "e",
    "spec": {"seed": 1},
    "spec_yaml": "seed: 1\n",
    "datasets": [{"context": "training", "name": "d", "source": "s", "digest": "x", "rows": 3}],
    "tags": {},
    "folder": "/jobs",
}


def make(output: Path, run_id: str = RUN, began: str = "2026-01-01T00:00:00+00:00") -> RunDirectory:
    ending = RunEnd("FINISHED", "converged", {}, 3, False)
    uri = "http://127.0.0.1:9"
    record = RunRecord(run_id, "k" * 32, "job", began, uri, FACTS, end=ending)
    return RunDirectory.create(output / run_id, record, "")


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
    "name": [*CLIMBING, None, 5, {}],
    "began": [None, 5, "yesterday", "2026-01-01\x1b00:00:00+00:00"],
    "tracking_uri": [
        *(None, 5, "", "runs", "file:///x", "http://["),
        *("sqlite:///../../x.db", "sqlite:////a\0"),
    ],
    "mlflow_run_id": [5, [], "", "\x1b[2J"],
    "facts": [None, [], {}, FACTS | {"x": 1}],
    "facts.name": ["../../x"],
    "facts.datasets": [None, [None], [{}], {"context": "training"}],
    "facts.folder": [None, 5, "", "runs", "../.."],
    "facts.spec": [None, [1]],
    "facts.tags": [None, {"a": 1}],
    "job": [5, "x", []],
    "end": [5, []],
    "end.status": [None, "RUNNING", []],
    "end.stop_reason": [None, 5, "\ud800"],
    "end.step": [None, -1, 2**63, 1.5, True],
    "end.can_resume": [None, "yes"],
    "is_delivered": [None, 1],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in WRONG.items() for value in values]
)
def test_a_field_that_is_not_what_it_should_be_is_named(
    output: Path, field: str, value: object
) -> None:
    folder = make(output)
    above, _, name = field.rpartition(".")

    def change(record: dict[str, Any]) -> None:
        (record[above] if above else record)[name] = value

    alter(folder, change)
    pattern = rf"run\.json is damaged: the field '({re.escape(field)}|{above or name})' "
    with pytest.raises(RunNotFound, match=pattern) as caught:
        RunDirectory.open(folder.path)
    assert caught.value.message.isprintable()
    assert all_runs(output) == []


@pytest.mark.parametrize("name", ["run_id", "facts", "end"])
def test_a_field_that_is_missing_is_named(output: Path, name: str) -> None:
    folder = make(output)
    alter(folder, lambda record: record.pop(name))
    with pytest.raises(RunNotFound, match=rf"run\.json is damaged: .*'{name}'"):
        RunDirectory.open(folder.path)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"facts": ' * 50_000,
        json.dumps({"format": 1, "job": json.loads("[" * 500 + "]" * 500)}),
        "[]",
        "5",
        "",
        "\0" * 100,
        '{"a": ' + "1" * 5000 + "}",
    ],
)
def test_a_record_that_is_something_else(output: Path, text: str) -> None:
    folder = make(output)
    (folder.path / RECORD).write_text(text)
    with pytest.raises(RunNotFound, match=r"run\.json is damaged"):
        RunDirectory.open(folder.path)


def test_a_record_without_an_end_is_not_read(output: Path) -> None:
    path = make(output).path
    os.truncate(path / RECORD, 1 << 40)
    with pytest.raises(RunNotFound, match=r"run\.json cannot be read: larger than 16 MiB"):
        RunDirectory.open(path)
    for put_there in (lambda file: file.symlink_to("/dev/zero"), os.mkfifo, Path.mkdir):
        (path / RECORD).unlink()
        put_there(path / RECORD)
        with pytest.raises(RunNotFound, match=r"run\.json cannot be read: it is (no|a) "):
            RunDirectory.open(path)
        if (path / RECORD).is_dir():
            break


def test_a_damaged_run_does_not_keep_others_from_being_listed(output: Path) -> None:
    make(output, "old" + RUN, "2026-01-01T00:00:00+00:00")
    make(output, "new" + RUN, "2026-02-01T00:00:00+00:00")
    damaged = make(output)
    alter(damaged, lambda record: record.update(began=None))
    (output / ("x" * 255)).mkdir()
    listed = list_runs(output, lambda line: None)
    assert [run["run_id"][:3] for run in listed] == ["new", "old"]


def test_why_a_run_ended_is_one_line(output: Path) -> None:
    folder = make(output)
    alter(folder, lambda record: record["end"].update(stop_reason="ValueError: a\n\x1b[2Jb"))
    lines = table(list_runs(output, lambda line: None))
    assert len(lines) == 2
    assert all(map(str.isprintable, lines))


@pytest.mark.parametrize("name", [*CLIMBING, "x" * 5000, "../" * 2000])
def test_no_run_is_looked_for_elsewhere(output: Path, name: str) -> None:
    make(output)
    make(output.parent.parent, "x")
    with pytest.raises(RunNotFound):
        find_run(name, output)


def test_a_folder_that_is_named_outright_may_be_anywhere(output: Path, tmp_path: Path) -> None:
    """It is the person at the command line who says so, as with any other file."""
    made = make(tmp_path / "elsewhere")
    assert find_run(str(made.path), output).record == made.record


@pytest.mark.parametrize("name", [name for name in CLIMBING if name != "x\n"])
def test_no_job_has_a_name_that_is_a_path(name: str) -> None:
    if "\0" not in name:
        with pytest.raises(SpecError, match="should have only letters"):
            load_spec("digits", [f"name='{name}'"])


def test_an_id_of_mlflows_is_no_path(output: Path) -> None:
    folder = make(output)
    alter(folder, lambda record: record.update(mlflow_run_id="../../x"))
    opened = RunDirectory.open(folder.path)
    assert link_to(opened, DirectClient(lambda: pytest.fail("asked"))).run_id == "../../x"
    assert opened.path == folder.path
    assert list_runs(output, lambda line: None)[0]["folder"] == str(folder.path)


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
    place = folder.path / name
    place.parent.mkdir(exist_ok=True)
    targets = {
        "folder": outside,
        "file": Path("../../..") / ("../" * name.count("/")) / "outside" / "precious",
        "nothing": outside / "nothing",
        "itself": place,
        "device": Path("/dev/zero"),
    }
    place.unlink(missing_ok=True)
    place.symlink_to(targets[target])
    with pytest.raises(RunNotFound, match=rf"{RUN} is not used: the link {place.name} leads out"):
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
    with pytest.raises(RunNotFound, match="lock is neither a file nor a folder"):
        RunDirectory.open(folder.path)


def test_links_that_stay_in_a_run_and_links_to_a_run_are_fine(output: Path) -> None:
    folder = make(output)
    (folder.path / "model-1").mkdir()
    (folder.path / "model").symlink_to("model-1")
    (output / "latest").symlink_to(folder.path)
    assert RunDirectory.open(output / "latest").record == folder.record
