"""A view of the cluster that is refreshed in the background, so that no step waits for Ray."""

import contextlib
import threading
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table

from sumgrad.cluster.ray_backend.fair_share import Demand, cpu_share, read_demands

#: Seconds between two refreshes …
_INTERVAL_S = 2.0
#: … unless one takes more than this part of the time: Ray's table has all groups of a cluster's
#: lifetime, and 2,000 of them take 66 ms to read.
_MAX_LOAD = 1 / 50
#: Seconds that `close` waits for a refresh.
_CLOSE_TIMEOUT_S = 5.0


class ClusterMonitor:
    """Where a job's CPUs are, and how many it may have.

    Args:
        demand: The job's.

    Attributes:
        share: The number of CPUs that the job may have.
    """

    def __init__(self, demand: Demand) -> None:
        self.share = demand.max_cpus
        self._demand = demand
        #: The share that the last refresh found.
        self._last_share = demand.max_cpus
        #: For each of the job's groups, the nodes of its bundles.
        self._nodes: dict[str, Mapping[int, str]] = {}
        self._duration = 0.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Refresh once, then in the background."""
        self.refresh()
        self.share = self._last_share
        self._thread.start()

    def node_of(self, group: PlacementGroup, bundle: int = 0) -> str | None:
        """Return the node of a bundle as of the last refresh, or None if it has none."""
        return self._nodes.get(group.id.hex(), {}).get(bundle) or None

    def _run(self) -> None:
        while not self._closed.wait(max(_INTERVAL_S, self._duration / _MAX_LOAD)):
            # Ray raises errors of many types; a head that is away is reported by the caller's own
            # requests.
            with contextlib.suppress(Exception):
                self.refresh()

    def refresh(self) -> None:
        """Read the cluster's state."""
        started = time.monotonic()
        groups: Mapping[str, Mapping[str, Any]] = placement_group_table()
        if self._closed.is_set():
            # A request to Ray after its shutdown would start it again.
            return
        free = whole_cpus(ray.available_resources())  # type: ignore[no-untyped-call]  # Ray's
        self._nodes = {
            identifier: row["bundles_to_node_id"]
            for identifier, row in groups.items()
            if self._demand.owns(row["name"])
        }
        share = cpu_share(self._demand, read_demands(groups.values()), free)
        # The two replies are of two moments, between which a CPU may belong to no job, so nothing
        # is released because of one refresh alone.
        self.share, self._last_share = max(share, self._last_share), share
        self._duration = time.monotonic() - started

    def close(self) -> None:
        """Stop refreshing."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_TIMEOUT_S)


def whole_cpus(resources: Mapping[str, float]) -> int:
    """Return the number of whole CPUs among a cluster's resources."""
    return int(resources.get("CPU", 0))
