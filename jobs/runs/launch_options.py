"""What is different for a job that somebody handed in, and that a service runs for them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sumgrad.jobs.tracking import RunTracker


@dataclass(frozen=True)
class LaunchOptions:
    """How a run is hosted; by default it is a person's own, in the foreground.

    Attributes:
        tags: Of the run in MLflow, besides its own and in place of what this machine would say.
        waits_for_nodes: Whether to wait also for CPUs that the cluster does not have yet.
        on_start: Told of the run's tracker as soon as there is one, from another thread.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    waits_for_nodes: bool = False
    on_start: Callable[[RunTracker], None] = lambda _: None
