"""The MLflow run that a run of ours is told to: found or made as soon as its store answers."""

import threading
from collections.abc import Callable

from sumgrad.jobs.tracking.client import RunDescription, RunRef, TrackingClient
from sumgrad.jobs.tracking.metadata import RunMetadata, flatten, run_tags


class Link:
    """Leads to a run in MLflow, which may have to be made first.

    Args:
        client: Of the store.
        facts: Of the run.
        key: Our own name of it, different for each run.
        run_id: Its id in MLflow, if it has been made.
        made_before: Whether it may have been made although its id is not known.

    Attributes:
        client: See above.
        on_made: Told of the ids when it has been made or found.
    """

    def __init__(
        self,
        client: TrackingClient,
        facts: RunMetadata,
        key: str,
        *,
        run_id: str | None = None,
        made_before: bool = False,
    ) -> None:
        self.client = client
        self.facts = facts
        self._key = key
        self._run_id = run_id
        self._made_before = made_before
        self.on_made: Callable[[RunRef], None] = lambda _: None
        self._lock = threading.Lock()
        self._linked: RunRef | None = None

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow, as far as it is known."""
        return self._linked.run_id if self._linked is not None else self._run_id

    @property
    def linked_now(self) -> RunRef | None:
        """The run, if it has been reached; never waits."""
        return self._linked

    def linked(self) -> RunRef:
        """The run; found or made by the first call that reaches the store.

        Raises:
            TrackingError: The store does not answer, or refuses.
        """
        with self._lock:
            if self._linked is None:
                self._linked = self._reach()
                self.on_made(self._linked)
            return self._linked

    def _reach(self) -> RunRef:
        if self._run_id is not None:
            return self.client.get_run(self._run_id)
        may_exist = self._made_before
        # Whatever becomes of the first attempt, it may have come as far as that.
        self._made_before = True
        return self.client.create_run(self._description(), may_exist=may_exist)

    def _description(self) -> RunDescription:
        facts = self.facts
        return RunDescription(
            name=facts.name,
            key=self._key,
            experiment=facts.experiment,
            folder=str(facts.folder.absolute()),
            tags=run_tags(facts),
            params=dict(flatten(facts.spec)),
            datasets=facts.datasets,
            spec_yaml=facts.spec_yaml,
        )
