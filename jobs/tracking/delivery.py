"""Delivering a run's directory to MLflow: the run, its metrics, its model and its status.

Every step may be repeated after a failure; what MLflow has acknowledged is in the run's receipt.
`deliver` does all of it for a run that has ended. During training a process of its own uses
`Delivery` step by step, see `sumgrad.jobs.tracking.mlflow_process`.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sumgrad.jobs.artifacts.saved_model import DESCRIPTION
from sumgrad.jobs.config.tracking_uri import artifact_location
from sumgrad.jobs.errors import LoginRefused, TrackingError
from sumgrad.jobs.support.redaction import redact
from sumgrad.jobs.support.text import describe_error
from sumgrad.jobs.tracking.metadata import (
    MAX_PARAMETER_CHARACTERS,
    MAX_TAG_CHARACTERS,
    RunEnd,
    RunRecord,
    dataset_inputs,
    flatten,
)
from sumgrad.jobs.tracking.outbox import EXAMPLE, MODEL, RECEIPT, Point, Receipt, read_points
from sumgrad.jobs.tracking.store import Store, tracking_error

KEY_TAG = "sumgrad.run"  #: The tag with `RunRecord.key`.
BATCH = 1000  #: MLflow's limit for one request.
REQUEST_TIMEOUT_S = 10.0  #: The end of a run waits this long for the next successful request.
#: The time to prepare and upload a model, plus the time of its bytes on a slow line.
MODEL_TIMEOUT_S = 60.0
SLOW_LINE_BYTES_PER_S = 100_000

_logger = logging.getLogger(__name__)


def deliver(directory: Path, end: RunEnd, open_store: Callable[[], Store]) -> bool:
    """Deliver what MLflow lacks of a run that has ended; return what `Delivery.finish` returns."""
    delivery = Delivery(directory, open_store)
    delivery.register()
    while delivery.send_metrics():
        pass
    return delivery.finish(end)


class Delivery:
    """One run on its way to an MLflow store.

    A run is never MLflow's global active run, because MLflow's exit hook marks that one as
    FINISHED, whatever happened. Methods raise `TrackingUnreachable` if the store does not answer
    now, and `TrackingError` if it refuses.

    `on_progress` is called after each successful request, with the seconds that the next may take.
    """

    def __init__(
        self,
        directory: Path,
        open_store: Callable[[], Store],
        on_progress: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._directory, self._run = directory, RunRecord.read(directory)
        self._open_store = open_store
        self._on_progress = on_progress
        self._store: Store | None = None
        self._receipt = Receipt.read(directory)
        #: MLflow's id of the run; empty before `register`.
        self._mlflow_run_id = self._receipt.mlflow_run_id or ""
        #: Whether MLflow has the model; None before the only attempt to log it.
        self._has_model: bool | None = None

    def register(self, *, resumed: bool = False) -> None:
        """Create the run in MLflow unless it exists; a resumed run becomes RUNNING again."""
        with self._request(f"run {self._run.run_id} could not be started") as store:
            if not self._mlflow_run_id:
                self._mlflow_run_id = self._create(store)
                self._acknowledge(mlflow_run_id=self._mlflow_run_id)
            self._check_exists(store)
            if resumed:
                store.client.update_run(self._mlflow_run_id, status="RUNNING")
                self._acknowledge(end=None)

    def send_metrics(self) -> int:
        """Send the oldest values that MLflow lacks, at most `BATCH`, and return their number."""
        offset = self._receipt.metrics_offset
        points, end = read_points(self._directory, offset, BATCH)
        self.send_points(points)
        if end > offset:
            self._acknowledge(metrics_offset=end)
        return len(points)

    def send_points(self, points: list[Point]) -> None:
        """Send values. Those that MLflow will never accept are dropped with a warning."""
        if not points:
            return
        with self._request("metrics were not accepted") as store:
            from mlflow.entities import Metric
            from mlflow.exceptions import MlflowException

            metrics = [Metric(p.key, p.value, p.timestamp_ms, p.step) for p in points]
            try:
                store.client.log_batch(self._mlflow_run_id, metrics=metrics)
            except MlflowException as error:
                # Other refusals may end: a password expires, a proxy limits requests.
                if error.error_code != "INVALID_PARAMETER_VALUE":
                    raise
                # MLflow calls the values of a deleted run invalid, and takes them once it is back.
                self._check_exists(store)
                why = describe_error(error)
                _logger.warning("MLflow refused %d metric values: %s", len(points), why)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set or replace tags."""
        if not tags:
            return
        with self._request("tags were not accepted") as store:
            for key, value in tags.items():
                store.client.set_tag(self._mlflow_run_id, key, value[:MAX_TAG_CHARACTERS])

    def finish(self, end: RunEnd) -> bool:
        """Log the model, set the final tags and the status; return whether MLflow has everything.

        If the model is missing, the reason is logged.
        """
        if self._has_model is None:
            self._has_model = self._log_model(end)
        self.set_tags({**end.tags, "sumgrad.stop_reason": end.stop_reason})
        with self._request("the status was not accepted") as store:
            store.client.set_terminated(self._mlflow_run_id, status=end.status)
        if self._has_model:
            self._acknowledge(end=end)
        return self._has_model

    def _log_model(self, end: RunEnd) -> bool:
        """Return whether MLflow has the model that it should have."""
        model = self._directory / MODEL
        if end.status == "KILLED" or not model.is_dir():
            return True
        file = model / DESCRIPTION
        digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
        if digest == self._receipt.model_sha256:
            return True
        with self._request("the model was not accepted") as store:
            # A small request first: a store that does not answer it gets no model.
            store.client.get_run(self._mlflow_run_id)
        size = sum(file.stat().st_size for file in model.rglob("*") if file.is_file())
        self._on_progress(MODEL_TIMEOUT_S + size / SLOW_LINE_BYTES_PER_S)
        try:
            from sumgrad.jobs.tracking.model_logging import log_model, read_example

            example = read_example(self._directory / EXAMPLE)
            model_id = log_model(store, self._mlflow_run_id, model, example, end.step)
        except Exception as error:  # noqa: BLE001 - the model is on disk, and the status matters
            _logger.warning("the model could not be logged to MLflow: %s", describe_error(error))
            return False
        finally:
            self._on_progress(REQUEST_TIMEOUT_S)
        self._acknowledge(model_id=model_id, model_sha256=digest)
        return True

    def _check_exists(self, store: Store) -> None:
        """Raise TrackingError if the run was deleted in MLflow, or its database was replaced."""
        from mlflow.exceptions import MlflowException

        try:
            if store.client.get_run(self._mlflow_run_id).info.lifecycle_stage == "active":
                return
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        raise TrackingError(
            f"run {self._run.run_id} is not in MLflow any more: {redact(store.uri)} has no active "
            f"run {self._mlflow_run_id}",
            hint=f"restore it with 'mlflow runs restore --run-id {self._mlflow_run_id}', or remove "
            f"{self._directory / RECEIPT} to deliver everything to a new run",
        )

    def _acknowledge(self, **changes: object) -> None:
        self._receipt = replace(self._receipt, **changes)  # type: ignore[arg-type]
        self._receipt.write(self._directory)

    def _create(self, store: Store) -> str:
        """Create the run with its metadata, or complete one that was created before a crash."""
        from mlflow.entities import Param

        client, metadata = store.client, self._run.metadata
        experiment_id = self._experiment_id(store)
        query = f"tags.`{KEY_TAG}` = '{self._run.key}'"
        found = client.search_runs([experiment_id], query, max_results=1)
        if found:
            mlflow_run_id = str(found[0].info.run_id)
        else:
            cut = {key: value[:MAX_TAG_CHARACTERS] for key, value in metadata.tags.items()}
            tags = cut | {KEY_TAG: self._run.key}
            created = client.create_run(experiment_id, tags=tags, run_name=self._run.run_id)
            mlflow_run_id = str(created.info.run_id)
        # The client splits these into batches of the size that a store accepts.
        params = [
            Param(key, value[:MAX_PARAMETER_CHARACTERS]) for key, value in flatten(metadata.spec)
        ]
        client.log_batch(mlflow_run_id, params=params)
        client.log_inputs(mlflow_run_id, dataset_inputs(metadata.datasets))
        client.log_text(mlflow_run_id, metadata.spec_yaml, "spec.yaml")
        return mlflow_run_id

    def _experiment_id(self, store: Store) -> str:
        """Return the id of the run's experiment, which is created if it does not exist."""
        from mlflow.exceptions import MlflowException

        name, client = self._run.metadata.experiment, store.client
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            location = artifact_location(store.uri, self._run.metadata.folder)
            try:
                return client.create_experiment(name, artifact_location=location)
            except MlflowException:
                # Another run may have created it at the same time.
                experiment = client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        if experiment.lifecycle_stage != "active":
            raise TrackingError(
                f"the MLflow experiment '{name}' is deleted",
                hint=f"run 'mlflow experiments restore --experiment-id {experiment.experiment_id}'"
                ", or set tracking.experiment to another name",
            )
        return str(experiment.experiment_id)

    @contextmanager
    def _request(self, problem: str) -> Iterator[Store]:
        """Provide the open store; MLflow's errors become a TrackingError."""
        if self._store is None:
            self._store = self._open_store()
        store = self._store
        from mlflow.exceptions import MlflowException

        try:
            yield store
        except (MlflowException, OSError) as error:
            ours = tracking_error(f"{problem} at {redact(store.uri)}", error, store.uri)
            if isinstance(ours, LoginRefused):
                # The token may have been replaced: open the store with the one in the file.
                self._store = None
            raise ours from error
        self._on_progress(REQUEST_TIMEOUT_S)
