"""Delivering a run to a real MLflow store: completely, exactly once, and after any failure."""

import itertools
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.entities import LoggedModelOutput, Run
from mlflow.exceptions import MlflowException, get_error_code
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INVALID_PARAMETER_VALUE, PERMISSION_DENIED

from sumgrad.jobs.artifacts.saved_model import SavedModel, load_model, save_model
from sumgrad.jobs.config.tracking_uri import artifact_location
from sumgrad.jobs.errors import LoginRefused, TrackingError, TrackingUnreachable
from sumgrad.jobs.tracking.delivery import Delivery, deliver
from sumgrad.jobs.tracking.metadata import RunEnd, RunMetadata
from sumgrad.jobs.tracking.model_logging import find_model
from sumgrad.jobs.tracking.outbox import EXAMPLE, RECEIPT, Outbox, Receipt
from sumgrad.jobs.tracking.store import Store
from tests.jobs.tracking.conftest import FAILED, FINISHED, KILLED, make_run

Id = Callable[[], str]


def models(run: Run) -> list[LoggedModelOutput]:
    assert run.outputs is not None
    return run.outputs.model_outputs


def test_a_run_has_its_parameters_tags_datasets_and_spec(
    store: Store, delivery: Delivery, mlflow_id: Id, tmp_path: Path
) -> None:
    delivery.register()
    run = store.client.get_run(mlflow_id())
    assert run.info.run_name == "iris-abc123"
    assert run.info.status == "RUNNING"
    assert run.data.params["seed"] == "7"
    assert run.data.params["model.layers.0.units"] == "3"
    assert len(run.data.params["note"]) == 6000
    assert run.data.tags["sumgrad.workers"] == "2"
    spec = Path(tmp_path, "mlartifacts", mlflow_id(), "artifacts/spec.yaml")
    assert spec.read_text() == "seed: 7\n"
    assert run.inputs is not None
    inputs = {
        entry.tags[0].value: (entry.dataset.name, entry.dataset.digest, entry.dataset.profile)
        for entry in run.inputs.dataset_inputs
    }
    assert inputs == {
        "training": ("iris", "d" * 36, '{"num_rows": 120}'),
        "test": ("iris", "e" * 36, '{"num_rows": 30}'),
    }


def test_more_than_a_batch_of_parameters(
    store: Store, run: Path, metadata: RunMetadata, mlflow_id: Id
) -> None:
    make_run(run, replace(metadata, spec={f"key{i}": i for i in range(250)}))
    Delivery(run, lambda: store).register()
    assert len(store.client.get_run(mlflow_id()).data.params) == 250


@pytest.mark.parametrize("end", [FINISHED, FAILED, KILLED], ids=lambda end: str(end.status))
def test_the_end_sets_status_and_tags(
    store: Store, run: Path, outbox: Outbox, mlflow_id: Id, end: RunEnd
) -> None:
    assert deliver(run, end, lambda: store)
    found = store.client.get_run(mlflow_id())
    assert (found.info.status, found.info.end_time is not None) == (end.status, True)
    assert end.tags.items() <= found.data.tags.items()
    assert Receipt.read(run).end == end


def test_metrics_keep_steps_and_timestamps(
    store: Store, delivery: Delivery, outbox: Outbox, mlflow_id: Id, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(1_000_000_000, 1_000_000_000)
    monkeypatch.setattr("time.time_ns", lambda: next(clock))
    for epoch in range(1, 4):
        outbox.log(epoch, {"train_loss": 1 / epoch, "gap": math.inf})
    delivery.register()
    assert delivery.send_metrics() == 3
    assert delivery.send_metrics() == 0
    curve = store.client.get_metric_history(mlflow_id(), "train_loss")
    assert [(m.step, m.timestamp, m.value) for m in curve] == [
        (1, 1000, 1.0),
        (2, 2000, 0.5),
        (3, 3000, 1 / 3),
    ]


@pytest.mark.parametrize(
    "call",
    [
        *("get_experiment_by_name", "create_run", "log_batch", "log_inputs", "log_text"),
        *("get_run", "set_tag", "set_terminated", "log_model_artifacts"),
    ],
)
def test_a_run_is_created_once_wherever_the_answer_is_lost(
    store: Store,
    run: Path,
    outbox: Outbox,
    folder: Path,
    call: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outbox.log(1, {"loss": 0.5})
    outbox.log(2, {"loss": 0.25})
    real = getattr(store.client, call)

    def answer_is_lost(*arguments: object, **options: object) -> None:
        real(*arguments, **options)
        raise OSError("the connection is gone")

    with monkeypatch.context() as away:
        away.setattr(store.client, call, answer_is_lost)
        with suppress(TrackingError):
            assert not deliver(run, FINISHED, lambda: store)
    assert deliver(run, FINISHED, lambda: store)
    experiment = store.client.get_experiment_by_name("flowers")
    assert experiment is not None
    (found,) = store.client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["seed"] == "7"
    assert found.inputs is not None
    assert len(found.inputs.dataset_inputs) == 2
    history = store.client.get_metric_history(found.info.run_id, "loss")
    assert [m.step for m in history if m.model_id is None] == [1, 2]
    assert len(models(found)) == 1


def test_a_run_whose_receipt_is_lost_is_found_and_completed(
    store: Store, run: Path, outbox: Outbox, mlflow_id: Id
) -> None:
    outbox.log(1, {"loss": 0.5})
    deliver(run, FAILED, lambda: store)
    first = mlflow_id()
    (run / RECEIPT).unlink()
    deliver(run, FAILED, lambda: store)
    assert mlflow_id() == first
    assert len(store.client.get_metric_history(first, "loss")) == 1


def test_a_resumed_run_is_running_again_and_gets_a_new_model(
    store: Store, run: Path, outbox: Outbox, folder: Path, mlflow_id: Id, saved: SavedModel
) -> None:
    deliver(run, replace(FAILED, step=1), lambda: store)
    again = Delivery(run, lambda: store)
    again.register(resumed=True)
    assert store.client.get_run(mlflow_id()).info.status == "RUNNING"
    assert Receipt.read(run).end is None
    train_more(folder, saved)
    assert again.finish(FINISHED)
    found = store.client.get_run(mlflow_id())
    assert found.info.status == "FINISHED"
    assert len(models(found)) == 2


def train_more(folder: Path, saved: SavedModel) -> None:
    """Replace the saved model by one with other weights."""
    saved.parameters.flat[:] += 1
    save_model(folder, saved)


def test_a_run_that_was_resumed_during_an_outage_gets_its_new_model(
    store: Store, run: Path, outbox: Outbox, folder: Path, mlflow_id: Id, saved: SavedModel
) -> None:
    deliver(run, replace(FAILED, step=1), lambda: store)
    train_more(folder, saved)
    assert deliver(run, FINISHED, lambda: store)
    assert len(models(store.client.get_run(mlflow_id()))) == 2
    found = load_model(find_model(mlflow_id(), store.uri))
    assert found.parameters.sha256() == saved.parameters.sha256()


def test_a_replaced_process_does_not_log_a_resumed_runs_model_again(
    store: Store, run: Path, outbox: Outbox, folder: Path, mlflow_id: Id
) -> None:
    for _ in range(2):
        delivery = Delivery(run, lambda: store)
        delivery.register(resumed=True)
        assert delivery.finish(FINISHED)
    assert len(models(store.client.get_run(mlflow_id()))) == 1


@pytest.mark.parametrize("is_deleted", [True, False])
@pytest.mark.parametrize("resumed", [True, False])
def test_a_run_that_mlflow_has_lost_is_refused_and_then_delivered_anew(
    store: Store,
    run: Path,
    outbox: Outbox,
    mlflow_id: Id,
    is_deleted: bool,
    resumed: bool,
) -> None:
    outbox.log(1, {"loss": 0.5})
    deliver(run, KILLED, lambda: store)
    if is_deleted:
        store.client.delete_run(mlflow_id())
    else:
        replace(Receipt.read(run), mlflow_run_id="0" * 32).write(run)
    lost = mlflow_id()
    with pytest.raises(TrackingError, match=rf"run {run.name} is not .* {lost}") as caught:
        Delivery(run, lambda: store).register(resumed=resumed)
    assert not isinstance(caught.value, TrackingUnreachable)
    assert f"mlflow runs restore --run-id {lost}" in caught.value.hint
    assert str(run / RECEIPT) in caught.value.hint
    (run / RECEIPT).unlink()
    assert deliver(run, KILLED, lambda: store)
    assert len(store.client.get_metric_history(mlflow_id(), "loss")) == 1


def test_no_value_is_dropped_while_a_run_is_deleted(
    store: Store, delivery: Delivery, outbox: Outbox, mlflow_id: Id
) -> None:
    delivery.register()
    outbox.log(1, {"loss": 0.5})
    store.client.delete_run(mlflow_id())
    with pytest.raises(TrackingError, match="is not in MLflow any more"):
        delivery.send_metrics()
    store.client.restore_run(mlflow_id())
    assert delivery.send_metrics() == 1
    assert store.client.get_run(mlflow_id()).data.metrics == {"loss": 0.5}


def test_a_deleted_experiment_is_refused_with_the_command_that_restores_it(
    store: Store, delivery: Delivery, run: Path
) -> None:
    experiment = store.client.create_experiment("flowers")
    store.client.delete_experiment(experiment)
    with pytest.raises(TrackingError, match="is deleted") as caught:
        delivery.register()
    assert f"restore --experiment-id {experiment}" in caught.value.hint


def test_losing_the_race_for_a_new_experiment_is_no_failure(
    store: Store,
    delivery: Delivery,
    mlflow_id: Id,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    location = artifact_location(store.uri, tmp_path)
    created = store.client.create_experiment("flowers", location)
    found = store.client.get_experiment_by_name("flowers")
    answers = iter([None, found, found])
    monkeypatch.setattr(store.client, "get_experiment_by_name", lambda name: next(answers))
    delivery.register()
    assert store.client.get_run(mlflow_id()).info.experiment_id == created


def answering(status: int) -> Callable[..., None]:
    """A call that a server answers with a status."""
    code = get_error_code(status)  # type: ignore[no-untyped-call]

    def call(*_: object, **__: object) -> None:
        raise MlflowException(f"API request failed: {status}", error_code=code)

    return call


@pytest.mark.parametrize("status", [401, 403, 404, 409, 429, 500, 503])
def test_values_that_a_server_may_accept_later_are_kept(
    store: Store,
    delivery: Delivery,
    outbox: Outbox,
    mlflow_id: Id,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
) -> None:
    delivery.register()
    outbox.log(1, {"loss": 0.5})
    with monkeypatch.context() as away:
        away.setattr(store.client, "log_batch", answering(status))
        with pytest.raises(TrackingError):
            delivery.send_metrics()
    assert delivery.send_metrics() == 1
    assert store.client.get_run(mlflow_id()).data.metrics == {"loss": 0.5}


@pytest.mark.parametrize(
    ("code", "is_dropped"),
    [(INVALID_PARAMETER_VALUE, True), (BAD_REQUEST, False), (PERMISSION_DENIED, False)],
)
def test_only_invalid_values_are_dropped(
    store: Store,
    delivery: Delivery,
    outbox: Outbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
    is_dropped: bool,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("bad", error_code=code)

    delivery.register()
    outbox.log(1, {"loss": 0.5})
    monkeypatch.setattr(store.client, "log_batch", refuse)
    if not is_dropped:
        with pytest.raises(TrackingError):
            delivery.send_metrics()
    else:
        assert delivery.send_metrics() == 1
        assert delivery.send_metrics() == 0
        assert caplog.messages == ["MLflow refused 1 metric values: bad"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (500, TrackingUnreachable),
        (503, TrackingUnreachable),
        (403, LoginRefused),
        (404, TrackingError),
    ],
)
def test_errors_of_a_server_say_whether_a_later_attempt_may_succeed(
    store: Store,
    run: Path,
    outbox: Outbox,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    kind: type[TrackingError],
) -> None:
    server = Store("http://me:pw@tracking", store.client, "http://me:pw@tracking")
    monkeypatch.setattr(store.client, "get_experiment_by_name", answering(status))
    with pytest.raises(TrackingError, match=f"{status}") as caught:
        Delivery(run, lambda: server).register()
    assert type(caught.value) is kind
    assert "pw" not in caught.value.message


def test_after_a_refused_login_the_store_is_opened_again(
    store: Store, run: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Store] = []

    def open_store() -> Store:
        opened.append(Store("http://tracking", store.client, "http://tracking"))
        return opened[-1]

    delivery = Delivery(run, open_store)
    with monkeypatch.context() as away:
        away.setattr(store.client, "get_experiment_by_name", answering(401))
        with pytest.raises(LoginRefused):
            delivery.register()
    delivery.register()
    assert len(opened) == 2


def test_the_model_is_logged_once(
    store: Store, run: Path, outbox: Outbox, folder: Path, mlflow_id: Id
) -> None:
    for _ in range(2):
        assert deliver(run, FINISHED, lambda: store)
    (output,) = models(store.client.get_run(mlflow_id()))
    assert output.step == 2
    assert Receipt.read(run).model_id == output.model_id


def test_a_model_that_cannot_be_logged_does_not_keep_the_status_away(
    store: Store,
    run: Path,
    outbox: Outbox,
    folder: Path,
    mlflow_id: Id,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (run / EXAMPLE).unlink()
    assert not deliver(run, FINISHED, lambda: store)
    assert store.client.get_run(mlflow_id()).info.status == "FINISHED"
    assert Receipt.read(run).end is None
    assert f"{run / EXAMPLE} is damaged" in caplog.text


def test_a_killed_run_gets_no_model(
    store: Store, run: Path, outbox: Outbox, folder: Path, mlflow_id: Id
) -> None:
    assert deliver(run, KILLED, lambda: store)
    assert models(store.client.get_run(mlflow_id())) == []


def test_progress_is_reported_after_successes_only(
    store: Store, run: Path, outbox: Outbox, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds: list[float] = []
    delivery = Delivery(run, lambda: store, seconds.append)
    with monkeypatch.context() as away:
        away.setattr(store.client, "get_experiment_by_name", answering(500))
        with pytest.raises(TrackingError):
            delivery.register()
    assert seconds == []
    delivery.register()
    delivery.finish(FINISHED)
    assert min(seconds) == 10
    assert max(seconds) > 60, "a model may take longer"
    assert seconds[-1] == 10
