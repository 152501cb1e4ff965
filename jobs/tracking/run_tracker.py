"""One MLflow run: started, fed, given its model, and ended with the status that is true."""

import concurrent.futures
import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Self, TypeVar

from sumgrad.jobs.errors import TrackingUnreachable
from sumgrad.jobs.support.threads import run_in_thread
from sumgrad.jobs.tracking.client import Status, TrackingClient
from sumgrad.jobs.tracking.delivery import Delivery, MetricQueue
from sumgrad.jobs.tracking.link import Link
from sumgrad.jobs.tracking.metadata import RunMetadata
from sumgrad.jobs.tracking.outbox import Backlog, Point
from sumgrad.jobs.tracking.store import first_line

T = TypeVar("T")
#: How long the end of a run waits for a store that takes nothing.
PATIENCE_SECONDS = 10.0
#: How long a model may take to be made ready for MLflow and sent. How far a request has come is
#: not to be seen, so a large model has longer, by what a slow line carries.
MODEL_SECONDS = 60.0
SLOWEST_BYTES_PER_S = 100_000


class RunTracker:
    """A run in an MLflow store. Once it was begun nothing here fails or delays a training.

    Args:
        link: Leads to the run.
        warn: Takes one line where something could not be tracked.
        backlog: Where metrics wait for delivery; by default in memory.
    """

    def __init__(
        self, link: Link, warn: Callable[[str], None], backlog: Backlog | None = None
    ) -> None:
        self._link = link
        self._warn = warn
        self._queue = MetricQueue(_LinkedSink(link), warn, backlog=backlog)
        #: What is left of it: a store is waited for once.
        self._patience = math.inf

    @classmethod
    def start(cls, client: TrackingClient, facts: RunMetadata, warn: Callable[[str], None]) -> Self:
        """A tracker of a new run in a store that answers.

        Raises:
            TrackingError: It does not answer, or refuses.
        """
        link = Link(client, facts, uuid.uuid4().hex)
        link.linked()
        return cls(link, warn)

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow; None as long as its store has not answered."""
        return self._link.run_id

    def log_epoch(
        self, step: int, metrics: Mapping[str, float], timestamp_ms: int | None = None
    ) -> None:
        """Queue a step's values; returns at once. Values that are not finite are left out."""
        self._queue.put(step, metrics, timestamp_ms or _now_ms())

    def prepare(self) -> None:
        """Wait for MLflow to be imported, which takes seconds that no store is to blame for."""
        # If it cannot be, what is asked next says so.
        with suppress(TrackingUnreachable):
            self._link.client.prepare()

    def log_model(self, folder: Path, example: Path, step: int) -> str | None:
        """Log a saved model's folder as the run's MLflow model.

        Args:
            folder: As `sumgrad.jobs.artifacts.saved_model.save_model` wrote it.
            example: A file of a few raw rows; see `sumgrad.jobs.tracking.example`.
            step: The epoch that its weights come from; that epoch's metrics become the model's.

        Returns:
            The model's id, or None where it could not be logged, which is warned of.
        """
        if not self._queue.flush(min(PATIENCE_SECONDS, self._patience)):
            # The store does not answer, and asking for more would take as long again.
            self._patience = 0.0
            return None

        def log() -> str:
            run_id = self._link.linked().run_id
            return self._link.client.log_model(run_id, folder, example, step)

        try:
            # A small question first: who does not answer it will take no model.
            self._ask(self._expect_run, PATIENCE_SECONDS)
            return self._ask(log, MODEL_SECONDS + _size(folder) / SLOWEST_BYTES_PER_S)
        except Exception as error:  # noqa: BLE001 - the model stands on disk, whatever MLflow says
            self._warn(f"the model could not be logged to MLflow: {first_line(error)}")
            return None

    def _expect_run(self) -> None:
        self._link.client.get_run(self._link.linked().run_id)

    def _ask(self, question: Callable[[], T], seconds: float) -> T:
        """The store's answer; one that does not come is waited for once, and never again.

        Raises:
            TrackingUnreachable: It has not answered in time. The question stays asked.
            Exception: Whatever the question raises.
        """
        seconds = min(seconds, self._patience)
        if not seconds:
            raise TrackingUnreachable("the store did not answer before")
        answer = run_in_thread("ask", question)
        if not concurrent.futures.wait([answer], seconds).done:
            self._patience = 0.0
            raise TrackingUnreachable(f"no answer in {seconds:.3g} s")
        return answer.result()

    def finish(
        self,
        status: Status,
        tags: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        step: int = 0,
        *,
        patience: float = PATIENCE_SECONDS,
    ) -> Delivery:
        """Deliver what is left, then set the status. May be called again with a later truth.

        It comes to its end although the store may not answer.

        Args:
            status: What became of the run.
            tags: Last tags, such as the stop reason.
            metrics: Last values, such as the test accuracy.
            step: The step of those.
            patience: How long to wait for a store that takes nothing, in seconds.

        Returns:
            What became of the metrics, and whether the status was set; what failed is warned of.
        """
        self._queue.put(step, metrics or {}, _now_ms())
        delivery = self._queue.close(min(patience, self._patience))
        if delivery.undelivered:
            self._warn(f"{delivery.undelivered} metric values could not be delivered")
            if delivery.unanswered:
                return delivery
        tags = dict(tags or {}) | {
            f"sumgrad.not_finite.{key}": f"from step {first}"
            for key, first in delivery.non_finite.items()
        }

        def end() -> None:
            self._link.client.end_run(self._link.linked().run_id, tags, status)

        try:
            self._ask(end, patience)
        except Exception as error:  # noqa: BLE001 - the training is over, and its result stands
            self._warn(f"the run's status {status} could not be set: {first_line(error)}")
            return delivery
        return replace(delivery, is_status_set=True)

    def tell(self, tags: Mapping[str, str]) -> bool:
        """Set tags now, if the run has been reached; waits for the store.

        Returns:
            Whether it has been reached.

        Raises:
            TrackingError: The store does not answer, or refuses.
        """
        if self.run_id is None:
            return False
        self._link.client.set_tags(self.run_id, tags)
        return True

    def abandon(self) -> None:
        """Send nothing more: the run does not begin."""
        self._queue.close(0.0)

    def goes_on(self) -> None:
        """Say that the run is running again.

        Raises:
            TrackingUnreachable: The store does not answer now.
            TrackingError: It refuses.
        """
        self._link.client.continue_run(self._link.linked().run_id)


class _LinkedSink:
    """Sends batches to a run. MLflow takes the same value twice for one, so resending is safe."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def send(self, points: Sequence[Point]) -> None:
        """See `MetricSink`."""
        self._link.client.log_metrics(self._link.linked().run_id, points)


def _size(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
