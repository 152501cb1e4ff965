import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import TrackingError
from jobs.tracking import RunFacts, Store
from jobs.tracking.backlog import Point
from jobs.tracking.location import artifact_location
from jobs.tracking.origin import flatten, git_tags
from jobs.tracking.run import _ClientSink
from tests.jobs.tracking.conftest import Tracker


def test_a_run_says_what_it_is(store: Store, start: Callable[[], Tracker], tmp_path: Path) -> None:
    tracker = start()
    tracker.finish("FINISHED")
    run = store.client.get_run(tracker.run_id)
    assert run.info.run_name == "iris"
    assert run.data.params["seed"] == "7"
    assert run.data.params["model.layers.0.units"] == "3"
    assert len(run.data.params["note"]) == 6000
    assert run.data.tags["sumgrad.workers"] == "2"
    assert run.data.tags["mlflow.source.type"] == "LOCAL"
    assert run.data.tags["mlflow.user"]
    assert Path(tmp_path, "mlartifacts", tracker.run_id, "artifacts/spec.yaml").read_text() == (
        "seed: 7\n"
    )
    assert run.inputs is not None
    inputs = {
        entry.tags[0].value: (entry.dataset.name, entry.dataset.digest, entry.dataset.profile)
        for entry in run.inputs.dataset_inputs
    }
    assert inputs == {
        "training": ("iris", "d" * 36, '{"num_rows": 120}'),
        "test": ("iris", "e" * 36, '{"num_rows": 30}'),
    }


def test_curves_are_read_back_with_their_steps(
    store: Store, start: Callable[[], Tracker], said: list[str]
) -> None:
    tracker = start()
    for epoch in range(1, 4):
        tracker.log_epoch(epoch, {"train_loss": 1 / epoch, "gap": math.inf}, 1000 * epoch)
    delivery = tracker.finish("FINISHED", {"stop_reason": "converged"}, {"test_accuracy": 0.9}, 3)
    curve = store.client.get_metric_history(tracker.run_id, "train_loss")
    assert [(m.step, m.timestamp, m.value) for m in curve] == [
        (1, 1000, 1.0),
        (2, 2000, 0.5),
        (3, 3000, 1 / 3),
    ]
    run = store.client.get_run(tracker.run_id)
    assert run.data.metrics == {"train_loss": 1 / 3, "test_accuracy": 0.9}
    assert run.data.tags["stop_reason"] == "converged"
    assert run.data.tags["sumgrad.not_finite.gap"] == "from step 1"
    assert (delivery.delivered, delivery.undelivered, said) == (4, 0, [])


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_the_status_is_what_was_said(
    store: Store, start: Callable[[], Tracker], status: str
) -> None:
    tracker = start()
    tracker.finish(status)  # type: ignore[arg-type]  # parametrize knows no literals
    info = store.client.get_run(tracker.run_id).info
    assert (info.status, info.end_time is not None) == (status, True)


def test_the_last_word_on_the_status_counts(store: Store, start: Callable[[], Tracker]) -> None:
    tracker = start()
    tracker.finish("FINISHED")
    tracker.finish("FAILED")
    assert store.client.get_run(tracker.run_id).info.status == "FAILED"


LEAVE = """
import sys
from pathlib import Path
from typing import Any
from jobs.tracking import RunFacts, RunTracker, open_store
facts = RunFacts("r", "e", {}, "", [], {}, Path.cwd())
tracker = RunTracker.start(open_store(sys.argv[1]), facts, print)
tracker.log_epoch(1, {"loss": 0.5})
print(tracker.run_id)
tracker.finish("FAILED")
sys.exit(1)
"""


def test_leaving_the_process_does_not_change_it(store: Store) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVE, store.uri], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    run = store.client.get_run(done.stdout.strip())
    assert (run.info.status, run.data.metrics) == ("FAILED", {"loss": 0.5})


def test_a_batch_that_is_sent_twice_counts_once(store: Store, start: Callable[[], Tracker]) -> None:
    tracker = start()
    sink = _ClientSink(tracker._link)
    points: Sequence[Point] = [Point("loss", 0.5, step, 1000) for step in range(3)]
    sink.send(points)
    sink.send(points)
    tracker.finish("FINISHED")
    assert len(store.client.get_metric_history(tracker.run_id, "loss")) == 3


def test_a_deleted_run_warns_and_fails_nothing(
    store: Store, start: Callable[[], Tracker], said: list[str]
) -> None:
    tracker = start()
    store.client.delete_run(tracker.run_id)
    tracker.log_epoch(1, {"loss": 0.5})
    assert tracker.finish("FINISHED").undelivered == 1
    assert "refused" in said[0]
    assert all("\n" not in line for line in said)


def test_two_runs_share_an_experiment(start: Callable[[], Tracker]) -> None:
    first, second = start(), start()
    assert first.experiment_id == second.experiment_id
    assert first.run_id != second.run_id
    first.finish("FINISHED")
    second.finish("FINISHED")


def test_losing_the_race_for_a_new_experiment_is_no_loss(
    store: Store, facts: RunFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = artifact_location(store.uri, facts.folder)
    made = store.client.create_experiment(facts.experiment, location)
    answer = store.client.get_experiment_by_name(facts.experiment)
    answers = iter([None, answer])  # not there when asked, there when made
    monkeypatch.setattr(store.client, "get_experiment_by_name", lambda name: next(answers))
    tracker = Tracker.start(store, facts, print)
    tracker.finish("FINISHED")
    assert tracker.experiment_id == made


def test_a_deleted_experiment_is_told(store: Store, start: Callable[[], Tracker]) -> None:
    tracker = start()
    tracker.finish("FINISHED")
    store.client.delete_experiment(tracker.experiment_id)
    with pytest.raises(TrackingError, match="is deleted"):
        start()


def test_the_commit_is_of_the_folder_that_the_job_was_started_from(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    assert git_tags(tmp_path) == {}
    git("init")
    assert git_tags(tmp_path) == {}
    (tmp_path / "job.yaml").write_text("seed: 1\n")
    git("add", ".")
    git("commit", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert git_tags(tmp_path) == {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.dirty": "false",
    }
    (tmp_path / "job.yaml").write_text("seed: 2\n")
    assert git_tags(tmp_path)["mlflow.source.git.dirty"] == "true"


def test_parameters_keep_their_meaning_as_text(facts: RunFacts) -> None:
    spec: dict[str, Any] = {"a": None, "b": True, "c": [1, 2], "d": {}, "e": "word", "f": 1e-4}
    assert dict(flatten(spec)) == {
        "a": "null",
        "b": "true",
        "c": "[1, 2]",
        "d": "{}",
        "e": "word",
        "f": "0.0001",
    }


def test_more_than_a_batch_of_parameters(store: Store, facts: RunFacts) -> None:
    many = replace(facts, spec={f"key{i}": i for i in range(250)})
    tracker = Tracker.start(store, many, print)
    tracker.finish("FINISHED")
    assert len(store.client.get_run(tracker.run_id).data.params) == 250
