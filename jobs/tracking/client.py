"""What a run needs of MLflow, as a few operations of our own.

They are the seam between training and MLflow: `DirectClient` performs them where it is called, and
`ProcessClient` has a child process perform them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from sumgrad.jobs.tracking.metadata import DatasetMetadata
from sumgrad.jobs.tracking.outbox import Point

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class RunRef:
    """A run that a store has.

    Attributes:
        run_id: Its id there.
        experiment_id: Of the experiment that it belongs to.
    """

    run_id: str
    experiment_id: str


@dataclass(frozen=True)
class RunDescription:
    """What a store is told of a run when it is made there.

    Attributes:
        name: The run's name.
        key: Our own name of it, different for each run.
        experiment: The experiment it belongs to; made if there is none.
        folder: Where its files go if the store is a database elsewhere.
        tags: At most as long as MLflow takes them, and so are the parameters.
        params: Its parameters.
        datasets: What it reads.
        spec_yaml: Becomes the artifact ``spec.yaml``.
    """

    name: str
    key: str
    experiment: str
    folder: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    datasets: Sequence[DatasetMetadata]
    spec_yaml: str

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Self:
        """The description that `dataclasses.asdict` made a dictionary of."""
        datasets = [DatasetMetadata(**dataset) for dataset in facts["datasets"]]
        return cls(**dict(facts) | {"datasets": datasets})


class TrackingClient(Protocol):
    """Runs of one MLflow store. For several threads at a time.

    Every method may raise `TrackingUnreachable` where the store does not answer now, and
    `TrackingError` where it refuses. The store is opened by the first call that needs it, and
    again as long as that fails.
    """

    def prepare(self) -> None:
        """Have MLflow imported, which takes seconds that are not the store's."""

    def create_run(self, run: RunDescription, *, may_exist: bool) -> RunRef:
        """Make a run and tell what it is.

        Args:
            run: What it is.
            may_exist: Whether it may have been made before; then it is looked for by its key.
        """

    def get_run(self, run_id: str) -> RunRef:
        """A run that the store is expected to have."""

    def log_metrics(self, run_id: str, points: Sequence[Point]) -> None:
        """Add values to a run's curves; the same ones twice count once.

        Raises:
            Refused: The store will never take them.
        """

    def log_model(self, run_id: str, folder: Path, example: Path, step: int) -> str:
        """Log a saved model's folder as the run's MLflow model.

        Args:
            run_id: The run that trained it.
            folder: As `sumgrad.jobs.artifacts.saved_model.save_model` wrote it.
            example: A file of a few raw rows; see `sumgrad.jobs.tracking.example`.
            step: The epoch that its weights come from.

        Returns:
            The model's id.
        """

    def end_run(self, run_id: str, tags: Mapping[str, str], status: Status) -> None:
        """Set last tags, and then the status."""

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags, or replace them."""

    def continue_run(self, run_id: str) -> None:
        """Say that a run is running again."""
