"""What a service sets for a run that it starts for a user."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sumgrad.jobs.tracking.run_tracker import RunTracker


@dataclass(frozen=True)
class LaunchOptions:
    """How a run is launched; the defaults are those of a run in the foreground.

    Attributes:
        tags: MLflow tags that replace or complete the run's own.
        waits_for_nodes: Whether to wait for CPUs that the cluster does not have yet.
        allow_code_change: Whether a run may be resumed by other code, which is recorded.
        on_start: Called with the run's tracker as soon as it exists, from another thread.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    waits_for_nodes: bool = False
    allow_code_change: bool = False
    on_start: Callable[[RunTracker], None] = lambda _: None
