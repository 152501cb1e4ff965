"""Runs of a folder: what is listed of it, and what else may be in it."""

from dataclasses import replace
from pathlib import Path

import pytest

from sumgrad.jobs.cli.app import run
from sumgrad.jobs.runs.directory import RunDirectory
from sumgrad.jobs.runs.registry import list_runs
from tests.jobs.service.environment import isolate_user
from tests.jobs.test_fuzz import RECORD_OF_A_RUN

RUN = "0123456789abcdef"


def make_run(output: Path) -> RunDirectory:
    record = replace(RECORD_OF_A_RUN, run_id=RUN, mlflow_run_id=RUN, is_delivered=True)
    return RunDirectory.create(output / RUN, record, "name: x\n")


def test_a_clusters_jobs_beside_the_runs_are_no_damaged_runs(tmp_path: Path) -> None:
    make_run(tmp_path)
    job = tmp_path / "digits-1"
    job.mkdir()
    (job / "spec.yaml").write_text("name: digits\n")
    make_run(job / "runs")
    warnings: list[str] = []
    assert [each["run_id"] for each in list_runs(tmp_path, warnings.append)] == [RUN]
    assert not any("left out" in line for line in warnings)


def test_a_damaged_run_is_told(tmp_path: Path) -> None:
    found = make_run(tmp_path)
    (found.path / "run.json").write_text("")
    warnings: list[str] = []
    assert list_runs(tmp_path, warnings.append) == []
    assert warnings == [f"{found.path} is left out: its run.json is missing or damaged"]
    (found.path / "run.json").unlink()
    assert list_runs(tmp_path, warnings.append) == []
    assert len(warnings) == 2


@pytest.mark.parametrize("command", [["runs"], ["resume", RUN], ["sync", RUN]])
def test_runs_are_looked_for_where_the_environment_says(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = isolate_user(tmp_path, monkeypatch)
    make_run(home / "out")
    for given in (str(home / "out"), "~/out"):
        monkeypatch.setenv("SUMGRAD_OUTPUT", given)
        run(command)
        said = capsys.readouterr()
        assert "no run" not in said.out + said.err
    run([*command, "--output", "elsewhere"])
    said = capsys.readouterr()
    assert "no run" in said.out + said.err, "who says it on the line is obeyed"
