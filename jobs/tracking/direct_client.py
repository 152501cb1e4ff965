"""The operations on runs, performed with MLflow in this process."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sumgrad.jobs.config.tracking_uri import artifact_location
from sumgrad.jobs.errors import LoginRefused, TrackingError
from sumgrad.jobs.support.redaction import redact
from sumgrad.jobs.tracking.client import RunDescription, RunRef, Status
from sumgrad.jobs.tracking.delivery import Refused
from sumgrad.jobs.tracking.example import read_example
from sumgrad.jobs.tracking.metadata import TAG_CHARACTERS, dataset_inputs
from sumgrad.jobs.tracking.model_logging import log_model
from sumgrad.jobs.tracking.outbox import Point
from sumgrad.jobs.tracking.store import (
    Store,
    first_line,
    is_refusal,
    prepare_mlflow,
    tracking_error,
)

#: The tag with our own name of a run: one that was made just before its process was killed is
#: found by it and not made twice.
KEY_TAG = "sumgrad.run"


class DirectClient:
    """See `TrackingClient`.

    A run is never MLflow's global active run, so its exit hook, which marks that one as FINISHED
    whatever happened, does not know of it.

    Args:
        open_store: Opens the store; raises while it does not answer.
    """

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store
        #: Held while the store is opened, for that is done once.
        self._opening = threading.Lock()
        self._store: Store | None = None

    def prepare(self) -> None:
        """See `TrackingClient.prepare`."""
        prepare_mlflow()
        import mlflow  # noqa: F401

    def open(self) -> Store:
        """The store.

        Raises:
            TrackingError: It does not answer, or is no store of this MLflow.
        """
        with self._opening:
            if self._store is None:
                self._store = self._open_store()
            return self._store

    def create_run(self, run: RunDescription, *, may_exist: bool) -> RunRef:
        """See `TrackingClient.create_run`."""
        with self._asking("no run could be started") as store:
            experiment_id = _experiment(store, run)
            found = _find(store, run, experiment_id) if may_exist else None
            run_id = _make(store, run, experiment_id) if found is None else found
            _describe(store, run, run_id)
        return RunRef(run_id, experiment_id)

    def get_run(self, run_id: str) -> RunRef:
        """See `TrackingClient.get_run`."""
        with self._asking("the run could not be asked for") as store:
            return RunRef(run_id, store.client.get_run(run_id).info.experiment_id)

    def log_metrics(self, run_id: str, points: Sequence[Point]) -> None:
        """See `TrackingClient.log_metrics`."""
        with self._asking("values were not taken") as store:
            from mlflow.entities import Metric
            from mlflow.exceptions import MlflowException

            metrics = [Metric(p.key, p.value, p.timestamp_ms, p.step) for p in points]
            try:
                store.client.log_batch(run_id, metrics=metrics)
            except MlflowException as error:
                if is_refusal(error):
                    raise Refused(first_line(error)) from error
                raise

    def log_model(self, run_id: str, folder: Path, example: Path, step: int) -> str:
        """See `TrackingClient.log_model`."""
        with self._asking("the model was not taken") as store:
            return log_model(store, run_id, folder, read_example(example), step)

    def end_run(self, run_id: str, tags: Mapping[str, str], status: Status) -> None:
        """See `TrackingClient.end_run`."""
        self.set_tags(run_id, tags)
        with self._asking("the status was not taken") as store:
            store.client.set_terminated(run_id, status=status)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """See `TrackingClient.set_tags`."""
        with self._asking("tags were not taken") as store:
            for key, value in tags.items():
                store.client.set_tag(run_id, key, value[:TAG_CHARACTERS])

    def continue_run(self, run_id: str) -> None:
        """See `TrackingClient.continue_run`."""
        with self._asking("the run could not be gone on with") as store:
            store.client.update_run(run_id, status="RUNNING")

    @contextmanager
    def _asking(self, what: str) -> Iterator[Store]:
        """The open store; MLflow's errors become ours, with the place where they happened.

        Raises:
            TrackingError: In the place of MLflow's.
        """
        store = self.open()
        from mlflow.exceptions import MlflowException

        try:
            yield store
        except (MlflowException, OSError) as error:
            told = tracking_error(f"{what} at {redact(store.uri)}", error, store.uri)
            if isinstance(told, LoginRefused):
                self._forget(store)
            raise told from error

    def _forget(self, store: Store) -> None:
        """Have it opened anew by the next question: with the token that its file has by then."""
        with self._opening:
            if self._store is store:
                self._store = None


def _experiment(store: Store, run: RunDescription) -> str:
    """The experiment's id; it is made where there is none."""
    from mlflow.exceptions import MlflowException

    client = store.client
    experiment = client.get_experiment_by_name(run.experiment)
    if experiment is None:
        try:
            location = artifact_location(store.uri, Path(run.folder))
            return client.create_experiment(run.experiment, artifact_location=location)
        except MlflowException:
            # Another run may have made it just now.
            experiment = client.get_experiment_by_name(run.experiment)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"the MLflow experiment '{run.experiment}' is deleted",
            hint=f"mlflow experiments restore --experiment-id {experiment.experiment_id}, "
            "or name another in tracking.experiment",
        )
    return experiment.experiment_id


def _find(store: Store, run: RunDescription, experiment_id: str) -> str | None:
    query = f"tags.`{KEY_TAG}` = '{run.key}'"
    runs = store.client.search_runs([experiment_id], query, max_results=1)
    return str(runs[0].info.run_id) if runs else None


def _make(store: Store, run: RunDescription, experiment_id: str) -> str:
    tags = dict(run.tags) | {KEY_TAG: run.key}
    made = store.client.create_run(experiment_id, tags=tags, run_name=run.name)
    return str(made.info.run_id)


def _describe(store: Store, run: RunDescription, run_id: str) -> None:
    """Tell what the run is. The server may have gone away in the middle: twice is as once."""
    from mlflow.entities import Param

    # The client cuts these into batches of as many as a store takes.
    store.client.log_batch(run_id, params=[Param(k, v) for k, v in run.params.items()])
    store.client.log_inputs(run_id, dataset_inputs(run.datasets))
    store.client.log_text(run_id, run.spec_yaml, "spec.yaml")
