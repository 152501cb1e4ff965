"""One MLflow run: started, fed, given its model, and ended with the status that is true."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from jobs.errors import TrackingError
from jobs.tracking.delivery import Delivery, MetricQueue, Point, Refused
from jobs.tracking.location import artifact_location, redact
from jobs.tracking.logged_model import log_model
from jobs.tracking.origin import RunFacts, dataset_inputs, flatten, run_tags
from jobs.tracking.store import Store, first_line

if TYPE_CHECKING:
    from pandas import DataFrame

Status = Literal["FINISHED", "FAILED", "KILLED"]
#: How long the end of a run waits for a store that does not answer.
CLOSE_SECONDS = 15.0


class RunTracker:
    """A run in an MLflow store. After `start` nothing here fails or delays a training.

    The run is never MLflow's global active run, so its exit hook, which marks that one as
    FINISHED whatever happened, does not know of it.

    Args:
        store: An open store.
        run_id: An existing run.
        experiment_id: The experiment that it belongs to.
        warn: Takes one line where something could not be tracked.
    """

    def __init__(
        self, store: Store, run_id: str, experiment_id: str, warn: Callable[[str], None]
    ) -> None:
        self.run_id = run_id
        self.experiment_id = experiment_id
        self._store = store
        self._warn = warn
        self._queue = MetricQueue(_ClientSink(store, run_id), warn)

    @classmethod
    def start(cls, store: Store, facts: RunFacts, warn: Callable[[str], None]) -> Self:
        """Create the run with its parameters, tags, dataset inputs and ``spec.yaml``.

        Raises:
            TrackingError: The store refuses.
        """
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        client = store.client
        try:
            experiment_id = _experiment(store, facts)
            run = client.create_run(experiment_id, tags=run_tags(facts), run_name=facts.name)
            run_id = run.info.run_id
            # The client cuts these into batches of as many as a store takes.
            client.log_batch(run_id, params=[Param(k, v) for k, v in flatten(facts.spec)])
            client.log_inputs(run_id, dataset_inputs(facts.datasets))
            client.log_text(run_id, facts.spec_yaml, "spec.yaml")
        except (MlflowException, OSError) as error:
            raise TrackingError(
                f"no run could be started at {redact(store.uri)}: {first_line(error)}"
            ) from error
        return cls(store, run_id, experiment_id, warn)

    def log_epoch(
        self, step: int, metrics: Mapping[str, float], timestamp_ms: int | None = None
    ) -> None:
        """Queue a step's values; returns at once. Values that are not finite are left out."""
        self._queue.put(step, metrics, timestamp_ms or _now_ms())

    def log_model(self, folder: Path, example: "DataFrame | Any", step: int) -> str | None:
        """Log a saved model's folder as the run's MLflow model.

        Args:
            folder: As `jobs.saved_model.save_model` wrote it.
            example: A few raw rows; see `jobs.tracking.logged_model`.
            step: The epoch that its weights come from; that epoch's metrics become the model's.

        Returns:
            The model's id, or None where it could not be logged, which is warned of.
        """
        self._queue.flush(CLOSE_SECONDS)
        try:
            return log_model(self._store, self.run_id, folder, example, step)
        except Exception as error:  # noqa: BLE001 - the model stands on disk, whatever MLflow says
            self._warn(f"the model could not be logged to MLflow: {first_line(error)}")
            return None

    def finish(
        self,
        status: Status,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        step: int = 0,
    ) -> Delivery:
        """Deliver what is left, then set the status. May be called again with a later truth.

        Args:
            status: What became of the run.
            tags: Last tags, such as the stop reason.
            metrics: Last values, such as the test accuracy.
            step: The step of those.

        Returns:
            What became of the metrics; a loss is also warned of.
        """
        self._queue.put(step, metrics or {}, _now_ms())
        delivery = self._queue.close(CLOSE_SECONDS)
        if delivery.undelivered:
            self._warn(f"{delivery.undelivered} metric values could not be delivered")
        tags = dict(tags or {}) | {
            f"sumgrad.not_finite.{key}": f"from step {first}"
            for key, first in delivery.non_finite.items()
        }
        try:
            for key, value in tags.items():
                self._store.client.set_tag(self.run_id, key, value)
            self._store.client.set_terminated(self.run_id, status=status)
        except Exception as error:  # noqa: BLE001 - the training is over, and its result stands
            self._warn(f"the run's status {status} could not be set: {first_line(error)}")
        return delivery


class _ClientSink:
    """Sends batches to a run. MLflow takes the same value twice for one, so resending is safe."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._client = store.client
        self._run_id = run_id

    def send(self, points: Sequence[Point]) -> None:
        """See `MetricSink`."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        metrics = [Metric(p.key, p.value, p.timestamp_ms, p.step) for p in points]
        try:
            self._client.log_batch(self._run_id, metrics=metrics)
        except MlflowException as error:
            # 4xx: it is about what was sent; but a timeout and 'too many' are about now.
            code = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
            if 400 <= code < 500 and code not in (408, 429):
                raise Refused(first_line(error)) from error
            raise TrackingError(first_line(error)) from error


def _experiment(store: Store, facts: RunFacts) -> str:
    """The experiment's id; it is made where there is none."""
    from mlflow.exceptions import MlflowException

    client = store.client
    experiment = client.get_experiment_by_name(facts.experiment)
    if experiment is None:
        try:
            location = artifact_location(store.uri, facts.folder)
            return client.create_experiment(facts.experiment, artifact_location=location)
        except MlflowException:
            # Another run may have made it just now.
            experiment = client.get_experiment_by_name(facts.experiment)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"the MLflow experiment '{facts.experiment}' is deleted",
            hint=f"mlflow experiments restore --experiment-id {experiment.experiment_id}, "
            "or name another in tracking.experiment",
        )
    return experiment.experiment_id


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
