import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException, get_error_code
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    INVALID_PARAMETER_VALUE,
    PERMISSION_DENIED,
)

from sumgrad.jobs.config.tracking_uri import artifact_location
from sumgrad.jobs.errors import LoginRefused, TrackingError, TrackingUnreachable
from sumgrad.jobs.tracking import DirectClient, Journal, Link, RunMetadata, RunTracker, Store
from sumgrad.jobs.tracking.delivery import Refused
from sumgrad.jobs.tracking.metadata import flatten, git_tags
from sumgrad.jobs.tracking.outbox import Point
from sumgrad.jobs.tracking.run_tracker import _LinkedSink
from tests.jobs.tracking.conftest import Tracker


def test_a_run_says_what_it_is(
    store: Store, start_either: Callable[[], Tracker], tmp_path: Path
) -> None:
    tracker = start_either()
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
    store: Store, start_either: Callable[[], Tracker], said: list[str]
) -> None:
    tracker = start_either()
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
    store: Store, start_either: Callable[[], Tracker], status: str
) -> None:
    tracker = start_either()
    tracker.finish(status)  # type: ignore[arg-type]  # parametrize knows no literals
    info = store.client.get_run(tracker.run_id).info
    assert (info.status, info.end_time is not None) == (status, True)


def test_the_last_word_on_the_status_counts(
    store: Store, start_either: Callable[[], Tracker]
) -> None:
    tracker = start_either()
    tracker.finish("FINISHED")
    tracker.finish("FAILED")
    assert store.client.get_run(tracker.run_id).info.status == "FAILED"


LEAVE = """
import sys
from pathlib import Path
from typing import Any
from sumgrad.jobs.tracking import DirectClient, RunMetadata, RunTracker, open_store
facts = RunMetadata("r", "e", {}, "", [], {}, Path.cwd())
tracker = RunTracker.start(DirectClient(lambda: open_store(sys.argv[1])), facts, print)
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


def test_a_batch_that_is_sent_twice_counts_once(
    store: Store, start_either: Callable[[], Tracker]
) -> None:
    tracker = start_either()
    sink = _LinkedSink(tracker._link)
    points: Sequence[Point] = [Point("loss", 0.5, step, 1000) for step in range(3)]
    sink.send(points)
    sink.send(points)
    tracker.finish("FINISHED")
    assert len(store.client.get_metric_history(tracker.run_id, "loss")) == 3


def test_a_deleted_run_warns_and_fails_nothing(
    store: Store, start_either: Callable[[], Tracker], said: list[str]
) -> None:
    tracker = start_either()
    store.client.delete_run(tracker.run_id)
    tracker.log_epoch(1, {"loss": 0.5})
    assert tracker.finish("FINISHED").undelivered == 1
    assert "refused" in said[0]
    assert all("\n" not in line for line in said)


def test_two_runs_share_an_experiment(start_either: Callable[[], Tracker]) -> None:
    first, second = start_either(), start_either()
    assert first.experiment_id == second.experiment_id
    assert first.run_id != second.run_id
    first.finish("FINISHED")
    second.finish("FINISHED")


def test_losing_the_race_for_a_new_experiment_is_no_loss(
    store: Store, direct: DirectClient, facts: RunMetadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = artifact_location(store.uri, facts.folder)
    made = store.client.create_experiment(facts.experiment, location)
    answer = store.client.get_experiment_by_name(facts.experiment)
    answers = iter([None, answer])  # not there when asked, there when made
    monkeypatch.setattr(store.client, "get_experiment_by_name", lambda name: next(answers))
    tracker = Tracker.start(direct, facts, print)
    tracker.finish("FINISHED")
    assert tracker.experiment_id == made


def test_a_deleted_experiment_is_told(store: Store, start_either: Callable[[], Tracker]) -> None:
    tracker = start_either()
    tracker.finish("FINISHED")
    store.client.delete_experiment(tracker.experiment_id)
    with pytest.raises(TrackingError, match="is deleted"):
        start_either()


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


def test_parameters_keep_their_meaning_as_text(facts: RunMetadata) -> None:
    spec: dict[str, Any] = {"a": None, "b": True, "c": [1, 2], "d": {}, "e": "word", "f": 1e-4}
    assert dict(flatten(spec)) == {
        "a": "null",
        "b": "true",
        "c": "[1, 2]",
        "d": "{}",
        "e": "word",
        "f": "0.0001",
    }


def test_more_than_a_batch_of_parameters(
    store: Store, direct: DirectClient, facts: RunMetadata
) -> None:
    many = replace(facts, spec={f"key{i}": i for i in range(250)})
    tracker = Tracker.start(direct, many, print)
    tracker.finish("FINISHED")
    assert len(store.client.get_run(tracker.run_id).data.params) == 250


def answering(status: int) -> Callable[..., None]:
    """A call that a server answers with a status, as MLflow's client tells of it."""
    code = get_error_code(status)  # type: ignore[no-untyped-call]

    def call(*_: object, **__: object) -> None:
        raise MlflowException(f"API request failed: {status}", error_code=code)

    return call


@pytest.mark.parametrize("status", [401, 403, 404, 409, 429, 500, 503])
def test_what_a_server_may_take_tomorrow_is_kept_for_it(
    store: Store,
    direct: DirectClient,
    facts: RunMetadata,
    tmp_path: Path,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
) -> None:
    path = tmp_path / "metrics.jsonl"
    link = Link(direct, facts, "key")
    tracker = RunTracker(link, said.append, Journal(path, said.append))
    run_id = link.linked().run_id
    with monkeypatch.context() as away:
        away.setattr(store.client, "log_batch", answering(status))
        tracker.log_epoch(1, {"loss": 0.5})
        delivery = tracker.finish("FINISHED", patience=0.3)
    assert (delivery.unanswered, delivery.is_status_set) == (1, False)
    again = RunTracker(link, said.append, Journal(path, said.append))
    assert again.finish("FINISHED").is_status_set
    assert store.client.get_run(run_id).data.metrics == {"loss": 0.5}


@pytest.mark.parametrize(
    ("code", "is_final"),
    [(INVALID_PARAMETER_VALUE, True), (BAD_REQUEST, False), (PERMISSION_DENIED, False)],
)
def test_only_a_value_that_is_none_is_refused_for_ever(
    store: Store,
    start: Callable[[], Tracker],
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    is_final: bool,
) -> None:
    tracker = start()

    def call(*_: object, **__: object) -> None:
        raise MlflowException("no", error_code=code)

    monkeypatch.setattr(store.client, "log_batch", call)
    with pytest.raises(Refused if is_final else TrackingError):
        _LinkedSink(tracker._link).send([Point("loss", 0.5, 1, 1000)])


@pytest.mark.parametrize(
    ("status", "kind"),
    [(500, TrackingUnreachable), (503, TrackingUnreachable), (403, LoginRefused), (404, None)],
)
def test_a_server_that_fails_when_a_run_goes_on_may_answer_later(
    store: Store,
    facts: RunMetadata,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    kind: type[TrackingError] | None,
) -> None:
    # Whether waiting makes sense is a question that a file does not raise.
    server = Store("http://me:pw@tracking", store.client, "http://me:pw@tracking")
    link = Link(DirectClient(lambda: server), facts, "key")
    monkeypatch.setattr(store.client, "update_run", answering(status))
    with pytest.raises(TrackingError, match=f"{status}") as caught:
        RunTracker(link, print).goes_on()
    assert type(caught.value) is (kind or TrackingError)
    assert "pw" not in caught.value.message


@pytest.fixture
def hanging() -> Iterator[Callable[..., None]]:
    """A call that does not come back while the test goes on."""
    leave = threading.Event()

    def hang(*_: object, **__: object) -> None:
        leave.wait(60)

    yield hang
    leave.set()


@pytest.mark.parametrize("call", ["set_tag", "set_terminated"])
def test_a_store_that_hangs_at_the_end_is_left_behind(
    store: Store,
    start: Callable[[], Tracker],
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    hanging: Callable[..., None],
    call: str,
) -> None:
    tracker = start()
    tracker.log_epoch(1, {"loss": 0.5})
    assert tracker._queue.flush(10)
    monkeypatch.setattr(store.client, call, hanging)
    began = time.monotonic()
    delivery = tracker.finish("FINISHED", {"why": "x"}, patience=0.5)
    assert time.monotonic() - began < 3
    assert (delivery.delivered, delivery.is_status_set) == (1, False)
    assert said == ["the run's status FINISHED could not be set: no answer in 0.5 s"]
    # What has not answered once is not waited for again.
    began = time.monotonic()
    assert not tracker.finish("FINISHED", patience=10).is_status_set
    assert time.monotonic() - began < 3


def test_a_store_that_hangs_before_the_model_gets_none(
    store: Store,
    start: Callable[[], Tracker],
    folder: Path,
    example: Path,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    hanging: Callable[..., None],
) -> None:
    tracker = start()
    monkeypatch.setattr("sumgrad.jobs.tracking.run_tracker.PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(store.client, "get_run", hanging)
    began = time.monotonic()
    assert tracker.log_model(folder, example, 1) is None
    assert not tracker.finish("FINISHED", patience=10).is_status_set
    assert time.monotonic() - began < 3
    assert said[0] == "the model could not be logged to MLflow: no answer in 0.5 s"


def test_a_store_that_hangs_while_it_takes_the_model_is_left_behind(
    start: Callable[[], Tracker],
    folder: Path,
    example: Path,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    hanging: Callable[..., None],
) -> None:
    tracker = start()
    monkeypatch.setattr("sumgrad.jobs.tracking.run_tracker.MODEL_SECONDS", 0.5)
    monkeypatch.setattr("sumgrad.jobs.tracking.direct_client.log_model", hanging)
    began = time.monotonic()
    assert tracker.log_model(folder, example, 1) is None
    assert time.monotonic() - began < 3
    assert said[0].startswith("the model could not be logged to MLflow: no answer in 0.5")


def test_a_large_model_has_longer(
    start: Callable[[], Tracker],
    folder: Path,
    example: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracker = start()
    monkeypatch.setattr("sumgrad.jobs.tracking.run_tracker.MODEL_SECONDS", 0.0)
    monkeypatch.setattr("sumgrad.jobs.tracking.run_tracker.SLOWEST_BYTES_PER_S", 1)

    def slow(*_: object) -> str:
        time.sleep(0.5)
        return "id"

    monkeypatch.setattr("sumgrad.jobs.tracking.direct_client.log_model", slow)
    assert tracker.log_model(folder, example, 1) == "id"
