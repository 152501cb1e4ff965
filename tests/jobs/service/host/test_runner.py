"""A job on the cluster: its folder, its spec with the cluster's defaults, and its attempts."""

import json
import logging
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sumgrad.cluster.training.stopping import StopReason
from sumgrad.jobs.errors import (
    Interrupted,
    RunDamaged,
    RunNotFound,
    SpecError,
    SubmissionError,
    VersionMismatch,
)
from sumgrad.jobs.runs.directory import RunDirectory
from sumgrad.jobs.runs.progress import Reporter
from sumgrad.jobs.runs.summary import Summary
from sumgrad.jobs.runs.training import LaunchOptions
from sumgrad.jobs.service import versions
from sumgrad.jobs.service.heartbeat import HeartbeatReporter
from sumgrad.jobs.service.host import runner
from sumgrad.jobs.service.host.runner import RESOURCE_TIMEOUT_S, job_folder, load_job_spec
from sumgrad.jobs.service.ids import CODE_KEY, FOLDER_TAG, JOB_TAG
from sumgrad.jobs.service.manifest import RESULT_PREFIX, JobManifest
from sumgrad.jobs.service.versions import Versions
from sumgrad.jobs.spec.schema import JobSpec
from sumgrad.jobs.tracking.metadata import RunEnd
from sumgrad.model.errors import SumgradError
from tests.jobs.runs.records import RECORD_OF_A_RUN

HERE = Versions.here()
SPEC: dict[str, Any] = {
    "name": "flowers",
    "data": {"train": "digits"},
    "model": {"layers": [{"units": 10, "activation": "softmax"}]},
}


def manifest(attempt: int = 1, **spec: object) -> JobManifest:
    text = yaml.safe_dump(SPEC | spec) if attempt == 1 else None
    return JobManifest(
        job_id="flowers-1",
        attempt=attempt,
        spec_yaml=text,
        versions=HERE,
        has_code=True,
        tags={"mlflow.user": "ada"},
    )


@pytest.fixture(autouse=True)
def known_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading all of sumgrad's code takes a while."""
    monkeypatch.setattr(versions, "source_digest", lambda: HERE.code)


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUMGRAD_OUTPUT", str(tmp_path / "out"))
    return tmp_path / "out"


def make_folder(base: Path, /, **spec: object) -> Path:
    """Make the folder of a job that was submitted before."""
    folder = base / "flowers-1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.yaml").write_text(yaml.safe_dump(SPEC | spec))
    return folder


def make_run(folder: Path, run_id: str, started: str, end: RunEnd | None = None) -> None:
    record = replace(RECORD_OF_A_RUN, run_id=run_id, started=started, end=end)
    RunDirectory.create(folder / "runs" / run_id, record)


# The folder and the spec


def test_the_output_variable_names_the_parent_of_a_jobs_folder(
    output: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert job_folder("flowers-1") == output / "flowers-1"
    for value, parent in (
        ("~/jobs", home / "jobs"),
        ("", home / "sumgrad"),
        ("relative", Path.cwd() / "relative"),
    ):
        monkeypatch.setenv("SUMGRAD_OUTPUT", value)
        assert job_folder("flowers-1") == parent / "flowers-1"


@pytest.mark.parametrize(
    "job_id", ["../x", "/etc", "..", ".", "a/b", "a/../../b", "flowers-1.2", "", "ab", "a\0bc"]
)
def test_an_id_cannot_lead_out_of_the_output_folder(job_id: str, output: Path) -> None:
    with pytest.raises(SubmissionError, match="cannot be a job's id"):
        job_folder(job_id)
    with pytest.raises(SubmissionError):
        runner.run(manifest().model_copy(update={"job_id": job_id}))
    assert not output.exists()


def test_the_clusters_defaults_complete_the_spec(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = load_job_spec(make_folder(output))
    assert spec.cluster.address == "auto"
    assert spec.cluster.resource_timeout == RESOURCE_TIMEOUT_S
    assert spec.tracking.uri == f"sqlite:///{output}/mlflow.db"
    assert spec.output == str(output / "flowers-1/runs")
    assert spec.data.train == "digits"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert load_job_spec(make_folder(output)).tracking.uri == "http://mlflow:5000"


def test_the_users_values_replace_the_clusters_defaults(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    folder = make_folder(
        output,
        cluster={"workers": 3, "resource_timeout": 5.0, "microbatch_size": 7},
        tracking={"experiment": "mine", "uri": "http://other:5000"},
    )
    spec = load_job_spec(folder, ("cluster.workers=8",))
    assert (spec.cluster.workers, spec.cluster.resource_timeout) == (8, 5.0)
    assert spec.cluster.microbatch_size == 7
    assert (spec.tracking.experiment, spec.tracking.uri) == ("mine", "http://other:5000")


def test_address_and_output_are_always_the_clusters(output: Path) -> None:
    folder = make_folder(output, cluster={"address": "inline"}, output="/somewhere/else")
    spec = load_job_spec(folder, ("cluster.address=local", "output=/elsewhere"))
    assert spec.cluster.address == "auto"
    assert spec.output == str(folder / "runs")


def test_uploads_and_file_urls_become_paths_and_columns_do_not(output: Path) -> None:
    data = {"train": "data/train/rows.csv", "validation": "file:///data/v", "test": 0.2}
    columns = {"label": "data/kind", "features": "data/x"}
    folder = make_folder(output, data=data | columns)
    found = load_job_spec(folder).data
    assert found.train == str(folder / "data/train/rows.csv")
    assert (found.validation, found.test) == ("/data/v", 0.2)
    assert (found.label, found.features) == ("data/kind", "data/x")
    data = {"train": "digits", "validation": "file://host/x", "test": "file:///a/b c.csv"}
    found = load_job_spec(make_folder(output, data=data | {"label": "file:///x"})).data
    assert (found.train, found.validation) == ("digits", "file://host/x")
    assert (found.test, found.label) == ("/a/b c.csv", "file:///x")


def test_a_lost_folder_is_reported(output: Path) -> None:
    with pytest.raises(RunNotFound, match="has no folder") as caught:
        load_job_spec(output / "flowers-1")
    assert "SUMGRAD_OUTPUT" in caught.value.hint


def test_an_invalid_override_is_refused(output: Path) -> None:
    with pytest.raises(SpecError, match="nonsense"):
        load_job_spec(make_folder(output), ("nonsense=1",))


# Attempts


class FakeTraining:
    """Records calls of `train` and `resume`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, JobSpec, LaunchOptions]] = []
        self.returned: SumgradError | None = None
        self.raised: SumgradError | None = None
        monkeypatch.setattr(runner, "train", self._train)
        monkeypatch.setattr(runner, "resume", self._resume)

    def _train(
        self, spec: JobSpec, reporter: Reporter, options: LaunchOptions
    ) -> tuple[Summary, SumgradError | None]:
        self.calls.append(("train", spec, options))
        logging.getLogger("sumgrad.test").warning("waiting for CPUs")
        if self.raised is not None:
            raise self.raised
        summary = Summary("flowers", "FINISHED", StopReason.CONVERGED, "uri", run_id="ab" * 16)
        return summary, self.returned

    def _resume(
        self, run: RunDirectory, spec: JobSpec, reporter: Reporter, options: LaunchOptions
    ) -> tuple[Summary, SumgradError | None]:
        result = self._train(spec, reporter, options)
        self.calls[-1] = (f"resume {run.record.run_id}", spec, options)
        return result


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    return FakeTraining(monkeypatch)


def test_a_first_attempt_keeps_spec_and_data_and_trains(
    output: Path, training: FakeTraining, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = Path("data/train/rows.csv")
    rows.parent.mkdir(parents=True)
    rows.write_text("x,label\n1,a\n")
    runner.run(manifest(data={"train": str(rows)}))
    ((call, spec, options),) = training.calls
    folder = output / "flowers-1"
    assert call == "train"
    assert spec.data.train == str(folder / rows)
    assert (folder / rows).read_text() == rows.read_text()
    assert yaml.safe_load((folder / "spec.yaml").read_text())["name"] == "flowers"
    tags = {JOB_TAG: "flowers-1", FOLDER_TAG: str(folder), CODE_KEY: "local"}
    assert options.tags == tags | {"mlflow.user": "ada"}
    assert options.waits_for_nodes
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("job flowers-1, attempt 1, on ")
    assert json.loads(lines[-1].removeprefix(RESULT_PREFIX))["status"] == "FINISHED"
    assert not any("sumgrad " in line for line in lines[1:]), "commands need the cluster's name"

    # A later attempt reads the data where they outlive the first one's working folder.
    shutil.rmtree("data")
    runner.run(manifest(2))
    assert Path(str(training.calls[1][1].data.train)).read_text() == "x,label\n1,a\n"


def test_a_submitted_tag_cannot_change_the_jobs_id(output: Path, training: FakeTraining) -> None:
    runner.run(manifest().model_copy(update={"tags": {"a": "b"}}))
    assert training.calls[0][2].tags[JOB_TAG] == "flowers-1"


def test_a_later_attempt_resumes_the_newest_run(output: Path, training: FakeTraining) -> None:
    folder = make_folder(output)
    make_run(folder, "1" * 16, "2026-01-01T00:00:00+00:00")
    make_run(folder, "2" * 16, "2026-01-02T00:00:00+00:00")
    runner.run(manifest(2).model_copy(update={"overrides": ("cluster.workers=8",)}))
    ((call, spec, _),) = training.calls
    assert call == f"resume {'2' * 16}"
    assert spec.cluster.workers == 8


def test_a_later_attempt_trains_if_the_first_made_no_run(
    output: Path, training: FakeTraining
) -> None:
    make_folder(output)
    runner.run(manifest(2))
    assert [call for call, _, _ in training.calls] == ["train"]


def test_a_later_attempt_reports_a_damaged_run(output: Path, training: FakeTraining) -> None:
    folder = make_folder(output)
    make_run(folder, "1" * 16, "2026-01-01T00:00:00+00:00")
    record = folder / "runs" / ("1" * 16) / "run.json"
    record.write_text("")
    with pytest.raises(RunDamaged, match=f"{record} is damaged"):
        runner.run(manifest(2))
    record.unlink()
    with pytest.raises(RunNotFound, match=r"has no run\.json"):
        runner.run(manifest(2))
    assert not training.calls


def test_a_later_attempt_without_the_folder_is_refused(
    output: Path, training: FakeTraining
) -> None:
    with pytest.raises(RunNotFound):
        runner.run(manifest(2))
    assert not training.calls


def test_the_runs_of_an_earlier_job_with_the_same_id_are_kept(
    output: Path, training: FakeTraining
) -> None:
    folder = make_folder(output, seed=7)
    make_run(folder, "1" * 16, "2026-01-01T00:00:00+00:00")
    before = (folder / "spec.yaml").read_text()
    with pytest.raises(SubmissionError, match="has runs of an earlier job") as caught:
        runner.run(manifest())
    assert "another --id" in caught.value.hint
    assert "sumgrad delete" in caught.value.hint
    assert (folder / "spec.yaml").read_text() == before
    assert not training.calls


def test_a_folder_without_runs_is_used_again(output: Path, training: FakeTraining) -> None:
    make_folder(output, seed=7)
    runner.run(manifest(seed=8))
    assert training.calls[0][1].seed == 8


@pytest.mark.parametrize("attempt", [1, 2])
@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"code": "older"}, r"sumgrad .* \(older\) here"),
        ({"python": "3.99"}, r"Python 3\.99 here"),
        ({"libraries": HERE.libraries | {"numpy": "1.0"}}, r"numpy 1\.0 here"),
    ],
)
def test_a_cluster_with_other_versions_computes_nothing_unless_allowed(
    output: Path, training: FakeTraining, attempt: int, changes: dict[str, Any], difference: str
) -> None:
    make_folder(output)
    sent = manifest(attempt).model_copy(update={"versions": replace(HERE, **changes)})
    with pytest.raises(VersionMismatch, match=f"the cluster has other versions: {difference}"):
        runner.run(sent)
    assert training.calls == []
    # The job was kept, and can be resumed.
    runner.run(manifest(2).model_copy(update={"allow_version_mismatch": True}))
    assert len(training.calls) == 1


@pytest.mark.parametrize("is_raised", [False, True])
def test_the_error_that_ended_a_run_is_raised(
    output: Path, training: FakeTraining, is_raised: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    error = Interrupted("terminated", 143)
    if is_raised:
        training.raised = error
    else:
        training.returned = error
    with pytest.raises(Interrupted) as caught:
        runner.run(manifest())
    assert caught.value is error
    assert (RESULT_PREFIX in capsys.readouterr().out) is not is_raised


def test_heartbeats_carry_the_attempt_and_stop_with_it(
    output: Path, training: FakeTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[HeartbeatReporter] = []

    class Recorded(HeartbeatReporter):
        def stop(self) -> None:
            stopped.append(self)
            super().stop()

    monkeypatch.setattr(runner, "HeartbeatReporter", Recorded)
    make_folder(output)
    runner.run(manifest(3))
    assert [reporter.current().attempt for reporter in stopped] == [3]


def test_log_lines_reach_the_jobs_log_and_its_heartbeat(
    output: Path, training: FakeTraining, capsys: pytest.CaptureFixture[str]
) -> None:
    from sumgrad.jobs.support.logs import show_logs

    with show_logs():
        runner.run(manifest())
    assert "waiting for CPUs\n" in capsys.readouterr().out


# The program


def test_the_program_refuses_a_folder_without_a_manifest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("sumgrad.jobs.service.host", run_name="__main__")
    assert caught.value.code == 2
    assert "job.json" in capsys.readouterr().err


def test_the_program_names_a_library_that_the_cluster_lacks(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['numpy'] = None\n"
        "import runpy; runpy.run_module('sumgrad.jobs.service.host', run_name='__main__')"
    )
    root = str(Path(runner.__file__).parents[4])
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("error: the cluster has other versions: numpy not installed\n")
