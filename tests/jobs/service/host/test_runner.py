"""A job on the cluster: its folder, its spec as it runs there, and going on with it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sumgrad.cluster.training.stopping import StopReason
from sumgrad.jobs.errors import (
    Interrupted,
    RunNotFound,
    ServiceUnreachable,
    SpecError,
    SubmissionError,
)
from sumgrad.jobs.runs.directory import RunDirectory
from sumgrad.jobs.runs.launch_options import LaunchOptions
from sumgrad.jobs.runs.progress import Reporter
from sumgrad.jobs.runs.summary import Summary
from sumgrad.jobs.service import versions
from sumgrad.jobs.service.host import runner
from sumgrad.jobs.service.host.heartbeat import HeartbeatReporter
from sumgrad.jobs.service.host.runner import WAIT_S, job_folder, spec_of
from sumgrad.jobs.service.ids import FOLDER_TAG, JOB_TAG
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


def request(job_id: str = "flowers-1", number: int = 1, **spec: object) -> JobManifest:
    text = yaml.safe_dump(SPEC | spec) if number == 1 else None
    return JobManifest(
        job_id=job_id,
        attempt=number,
        spec_yaml=text,
        versions=HERE,
        has_code=True,
        tags={"mlflow.user": "ada"},
    )


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading all of our own code takes a while, and gives the same each time."""
    monkeypatch.setattr(versions, "source_digest", lambda: HERE.code)


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUMGRAD_OUTPUT", str(tmp_path / "out"))
    return tmp_path / "out"


def settled(base: Path, **spec: object) -> Path:
    home = base / "flowers-1"
    home.mkdir(parents=True, exist_ok=True)
    (home / "spec.yaml").write_text(yaml.safe_dump(SPEC | spec))
    return home


def test_where_a_jobs_folder_is(output: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert job_folder("flowers-1") == output / "flowers-1"
    monkeypatch.setenv("SUMGRAD_OUTPUT", "~/jobs")
    assert job_folder("flowers-1") == home / "jobs/flowers-1"
    monkeypatch.setenv("SUMGRAD_OUTPUT", "")
    assert job_folder("flowers-1") == home / "sumgrad/flowers-1"
    monkeypatch.setenv("SUMGRAD_OUTPUT", "relative")
    assert job_folder("flowers-1") == Path.cwd() / "relative/flowers-1"


@pytest.mark.parametrize(
    "job_id", ["../x", "/etc", "..", ".", "a/b", "a/../../b", "flowers-1.2", "", "ab", "a\0bc"]
)
def test_an_id_does_not_lead_out_of_the_output_folder(job_id: str, output: Path) -> None:
    with pytest.raises(SubmissionError, match="cannot be a job's id"):
        job_folder(job_id)
    with pytest.raises(SubmissionError):
        runner.run(request(job_id))
    assert not output.exists()


def test_the_clusters_defaults_hold(output: Path) -> None:
    spec = spec_of(settled(output))
    assert spec.cluster.address == "auto"
    assert spec.cluster.resource_timeout == WAIT_S
    assert spec.tracking.uri == f"sqlite:///{output}/mlflow.db"
    assert spec.output == str(output / "flowers-1/runs")
    assert spec.data.train == "digits"


def test_the_clusters_mlflow_is_used(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert spec_of(settled(output)).tracking.uri == "http://mlflow:5000"
    owners = settled(output, tracking={"uri": "http://other:5000"})
    assert spec_of(owners).tracking.uri == "http://other:5000"


def test_what_its_owner_said_holds(output: Path) -> None:
    home = settled(
        output,
        cluster={"address": "inline", "workers": 3, "resource_timeout": 5.0, "microbatch_size": 7},
        output="/somewhere/else",
        tracking={"experiment": "mine"},
    )
    spec = spec_of(home, ("cluster.workers=8", "cluster.address=local", "output=/elsewhere"))
    assert spec.cluster.address == "auto", "the cluster that it was handed in to"
    assert (spec.cluster.workers, spec.cluster.resource_timeout) == (8, 5.0)
    assert spec.cluster.microbatch_size == 7
    assert spec.tracking.experiment == "mine"
    assert spec.output == str(home / "runs"), "what it leaves stands in its own folder"


def test_sources_are_found_where_they_are(output: Path) -> None:
    data = {"train": "data/train/rows.csv", "validation": "file:///data/v", "test": 0.2}
    home = settled(output, data=data)
    found = spec_of(home).data
    assert found.train == str(home / "data/train/rows.csv")
    assert found.validation == "/data/v"
    assert found.test == 0.2


def test_columns_are_not_taken_for_sources(output: Path) -> None:
    data = {"train": "file:///rows.csv", "label": "data/kind", "features": "data/x"}
    found = spec_of(settled(output, data=data)).data
    assert (found.train, found.label, found.features) == ("/rows.csv", "data/kind", "data/x")


def test_a_lost_folder_is_told(output: Path) -> None:
    with pytest.raises(RunNotFound, match="has no folder") as caught:
        spec_of(output / "flowers-1")
    assert "SUMGRAD_OUTPUT" in caught.value.hint


def test_an_override_that_does_not_fit_is_refused(output: Path) -> None:
    with pytest.raises(SpecError, match="nonsense"):
        spec_of(settled(output), ("nonsense=1",))


class Trainings:
    """Stands in for training, and notes what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, JobSpec, LaunchOptions]] = []
        self.failure: SumgradError | None = None
        self.raises: SumgradError | None = None
        monkeypatch.setattr(runner, "train", self._train)
        monkeypatch.setattr(runner, "resume", self._resume)

    def _train(
        self, spec: JobSpec, reporter: Reporter, hosting: LaunchOptions
    ) -> tuple[Summary, SumgradError | None]:
        self.asked.append(("train", spec, hosting))
        reporter.note("training")
        if self.raises is not None:
            raise self.raises
        summary = Summary("flowers", "FINISHED", StopReason.CONVERGED, "uri", run_id="ab" * 16)
        return summary, self.failure

    def _resume(
        self, folder: RunDirectory, spec: JobSpec, reporter: Reporter, hosting: LaunchOptions
    ) -> tuple[Summary, SumgradError | None]:
        done = self._train(spec, reporter, hosting)
        self.asked[-1] = (f"resume {folder.record.run_id}", spec, hosting)
        return done


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    return Trainings(monkeypatch)


def run_of(home: Path, run_id: str, began: str, ending: RunEnd | None = None) -> None:
    record = replace(RECORD_OF_A_RUN, run_id=run_id, started=began, end=ending)
    RunDirectory.create(home / "runs" / run_id, record, "")


def test_a_first_attempt_settles_and_trains(
    output: Path, trainings: Trainings, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = Path("data/train/rows.csv")
    rows.parent.mkdir(parents=True)
    rows.write_text("x,label\n1,a\n")
    assert runner.run(request(data={"train": str(rows)})) == 0
    ((what, spec, hosting),) = trainings.asked
    home = output / "flowers-1"
    assert what == "train"
    assert spec.data.train == str(home / rows)
    assert (home / rows).read_text() == rows.read_text()
    assert yaml.safe_load((home / "spec.yaml").read_text())["name"] == "flowers"
    assert hosting.tags == {
        JOB_TAG: "flowers-1",
        FOLDER_TAG: str(home),
        "mlflow.user": "ada",
    }
    assert hosting.waits_for_nodes
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("job flowers-1, attempt 1, on ")
    assert lines[-1].startswith(RESULT_PREFIX)
    assert not any("sumgrad " in line for line in lines[1:]), "it knows no name of its cluster"
    assert json.loads(lines[-1].removeprefix(RESULT_PREFIX))["status"] == "FINISHED"


def test_a_tag_cannot_make_it_another_job(output: Path, trainings: Trainings) -> None:
    runner.run(request().model_copy(update={"tags": {"a": "b"}}))
    assert trainings.asked[0][2].tags[JOB_TAG] == "flowers-1"


def test_a_second_attempt_goes_on_with_the_newest_run(output: Path, trainings: Trainings) -> None:
    home = settled(output)
    run_of(home, "1" * 16, "2026-01-01T00:00:00+00:00")
    run_of(home, "2" * 16, "2026-01-02T00:00:00+00:00")
    runner.run(request(number=2).model_copy(update={"overrides": ("cluster.workers=8",)}))
    ((what, spec, _),) = trainings.asked
    assert what == f"resume {'2' * 16}"
    assert spec.cluster.workers == 8


@pytest.mark.parametrize(("is_complete", "code"), [(True, 0), (False, 3)])
def test_what_mlflow_lacks_of_a_run_that_is_over_is_told(
    output: Path,
    trainings: Trainings,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_complete: bool,
    code: int,
) -> None:
    home = settled(output)
    over = RunEnd("FINISHED", "converged", {}, 3, can_resume=False)
    run_of(home, "1" * 16, "2026-01-01T00:00:00+00:00", over)
    told: list[str] = []

    def sync(run: RunDirectory, uri: str) -> bool:
        told.append(run.record.run_id)
        return is_complete

    monkeypatch.setattr(runner, "sync", sync)
    assert runner.run(request(number=2)) == code
    assert (told, trainings.asked) == (["1" * 16], [])


def test_a_second_attempt_begins_where_the_first_did_not(
    output: Path, trainings: Trainings
) -> None:
    settled(output)
    runner.run(request(number=2))
    assert [what for what, _, _ in trainings.asked] == ["train"]


def test_a_second_attempt_without_its_folder_is_refused(output: Path, trainings: Trainings) -> None:
    with pytest.raises(RunNotFound):
        runner.run(request(number=2))
    assert not trainings.asked


def test_the_runs_of_an_earlier_job_are_not_touched(output: Path, trainings: Trainings) -> None:
    home = settled(output, seed=7)
    run_of(home, "1" * 16, "2026-01-01T00:00:00+00:00")
    before = (home / "spec.yaml").read_text()
    with pytest.raises(SubmissionError, match="has runs of an earlier job") as caught:
        runner.run(request())
    assert "another --id" in caught.value.hint
    assert "sumgrad delete" in caught.value.hint
    assert (home / "spec.yaml").read_text() == before
    assert not trainings.asked


def test_a_first_attempt_that_did_not_come_far_is_made_again(
    output: Path, trainings: Trainings
) -> None:
    settled(output, seed=7)
    runner.run(request(seed=8))
    assert trainings.asked[0][1].seed == 8


MISMATCHES = [
    ({"code": "older"}, r"sumgrad .* \(older\) here"),
    ({"python": "3.99"}, r"Python 3\.99 here"),
    ({"libraries": HERE.libraries | {"numpy": "1.0"}}, r"numpy 1\.0 here"),
]


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(("changes", "difference"), MISMATCHES)
def test_a_cluster_with_other_versions_computes_nothing(
    output: Path, trainings: Trainings, number: int, changes: dict[str, Any], difference: str
) -> None:
    settled(output)
    sent = request(number=number).model_copy(update={"versions": replace(HERE, **changes)})
    with pytest.raises(ServiceUnreachable, match=f"the cluster has other versions: {difference}"):
        runner.run(sent)
    assert trainings.asked == []
    runner.run(sent.model_copy(update={"allow_version_mismatch": True}))
    assert len(trainings.asked) == 1


@pytest.mark.parametrize("is_raised", [False, True])
def test_how_it_ended_is_raised(
    output: Path,
    trainings: Trainings,
    is_raised: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ended = Interrupted("it was told to end", 143)
    if is_raised:
        trainings.raises = ended
    else:
        trainings.failure = ended
    with pytest.raises(Interrupted) as caught:
        runner.run(request())
    assert caught.value is ended
    assert (RESULT_PREFIX in capsys.readouterr().out) is not is_raised


def test_its_heart_beats_with_its_attempt(
    output: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[HeartbeatReporter] = []

    class Noted(HeartbeatReporter):
        def stop(self) -> None:
            made.append(self)
            super().stop()

    monkeypatch.setattr(runner, "HeartbeatReporter", Noted)
    settled(output)
    runner.run(request(number=3))
    assert [reporter.current().attempt for reporter in made] == [3], "and stops at its end"


def test_uploads_are_read_where_they_outlive_the_attempt(
    output: Path, trainings: Trainings, change: Callable[[], None]
) -> None:
    change()
    runner.run(request(data={"train": "data/train"}))
    shutil.rmtree("data")
    runner.run(request(number=2))
    assert Path(str(trainings.asked[1][1].data.train), "a.csv").read_text() == "x"


@pytest.fixture
def change() -> Callable[[], None]:
    def upload() -> None:
        Path("data/train").mkdir(parents=True)
        Path("data/train/a.csv").write_text("x")

    return upload
