"""The MLflow run that a run of ours is told to: found or made as soon as its store answers."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.errors import TrackingError
from jobs.tracking.location import artifact_location
from jobs.tracking.origin import RunFacts, dataset_inputs, flatten, run_tags
from jobs.tracking.redaction import redact
from jobs.tracking.store import Store, tracking_error

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Our own name of a run, among its tags: a run that was made just before its process was killed is
#: found by it and not made twice.
KEY_TAG = "sumgrad.run"


@dataclass(frozen=True)
class Linked:
    """A run in an open store.

    Attributes:
        store: The store.
        run_id: The run's id there.
        experiment_id: Of the experiment that it belongs to.
    """

    store: Store
    run_id: str
    experiment_id: str

    @property
    def client(self) -> "MlflowClient":
        """The store's client."""
        return self.store.client


class Link:
    """Leads to a run in MLflow, which may have to be made first.

    Args:
        open_store: Opens the store; raises while it does not answer.
        facts: Of the run.
        key: Our own name of it, different for each run.
        run_id: Its id in MLflow, if it has been made.
        made_before: Whether it may have been made although its id is not known.

    Attributes:
        on_made: Told of the ids when it has been made or found.
    """

    def __init__(
        self,
        open_store: Callable[[], Store],
        facts: RunFacts,
        key: str,
        *,
        run_id: str | None = None,
        made_before: bool = False,
    ) -> None:
        self.facts = facts
        self._open_store = open_store
        self._key = key
        self._run_id = run_id
        self._made_before = made_before
        self.on_made: Callable[[Linked], None] = lambda _: None
        self._lock = threading.Lock()
        self._linked: Linked | None = None

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow, as far as it is known."""
        return self._linked.run_id if self._linked is not None else self._run_id

    @property
    def linked_now(self) -> Linked | None:
        """The run, if it has been reached; never waits."""
        return self._linked

    def linked(self) -> Linked:
        """The run; found or made by the first call that reaches the store.

        Raises:
            TrackingError: The store does not answer, or refuses.
        """
        with self._lock:
            if self._linked is None:
                store = self._open_store()
                self._linked = self._reach(store)
                self.on_made(self._linked)
            return self._linked

    def _reach(self, store: Store) -> Linked:
        from mlflow.exceptions import MlflowException

        try:
            if self._run_id is not None:
                run = store.client.get_run(self._run_id)
                return Linked(store, self._run_id, run.info.experiment_id)
            experiment_id = _experiment(store, self.facts)
            found = self._find(store, experiment_id) if self._made_before else None
            run_id = self._make(store, experiment_id) if found is None else found
            self._describe(store, run_id)
        except (MlflowException, OSError) as error:
            what = f"no run could be started at {redact(store.uri)}"
            raise tracking_error(what, error, store.uri) from error
        # From here on it is there, whatever is asked again.
        self._run_id = run_id
        return Linked(store, run_id, experiment_id)

    def _find(self, store: Store, experiment_id: str) -> str | None:
        query = f"tags.`{KEY_TAG}` = '{self._key}'"
        runs = store.client.search_runs([experiment_id], query, max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _make(self, store: Store, experiment_id: str) -> str:
        self._made_before = True
        tags = run_tags(self.facts) | {KEY_TAG: self._key}
        run = store.client.create_run(experiment_id, tags=tags, run_name=self.facts.name)
        return str(run.info.run_id)

    def _describe(self, store: Store, run_id: str) -> None:
        """Tell what the run is. The server may have gone away in the middle: twice is as once."""
        from mlflow.entities import Param

        client, facts = store.client, self.facts
        # The client cuts these into batches of as many as a store takes.
        client.log_batch(run_id, params=[Param(k, v) for k, v in flatten(facts.spec)])
        client.log_inputs(run_id, dataset_inputs(facts.datasets))
        client.log_text(run_id, facts.spec_yaml, "spec.yaml")


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
