"""A job's placement groups, and a monitor of the cluster's, so that no step waits for Ray."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from sumgrad.cluster.errors import ClusterUnreachable
from sumgrad.cluster.ray_backend.fair_share import Demand, cpu_share, read_demands
from sumgrad.cluster.workers import scaling_policy
from sumgrad.cluster.workers.scaling_policy import ScalingPolicy

_logger = logging.getLogger(__name__)

_SETTLE_S = 2.0  #: Seconds until CPUs that were just released count as free.
_POLL_S = 0.05  #: Polling interval of new groups in seconds; Ray itself waits in whole seconds.
_INTERVAL_S = 2.0  #: The shortest time between two refreshes, in seconds.
#: The largest part of the time for refreshes: Ray keeps all groups, and 2,000 take 66 ms to read.
_MAX_LOAD = 1 / 50
_CLOSE_TIMEOUT_S = 5.0  #: Seconds that `ClusterMonitor.close` waits for a refresh.


class JobGroups:
    """The placement groups of a job, which its demand names."""

    def __init__(self, demand: Demand) -> None:
        self.demand = demand
        self._groups: list[PlacementGroup] = []
        self._numbers = count()

    def create_extra(self) -> PlacementGroup:
        """Create a group with one more CPU."""
        return self.create(f"extra{next(self._numbers)}", 1)

    def create(self, kind: str, cpus: int) -> PlacementGroup:
        """Create a group of this kind, see `Demand.group_name`."""
        group: PlacementGroup = placement_group(
            [{"CPU": 1}] * cpus, strategy="PACK", name=self.demand.group_name(kind)
        )
        self._groups.append(group)
        return group

    def remove(self, group: PlacementGroup) -> None:
        """Release a group's CPUs."""
        self._groups.remove(group)
        # A cluster that does not answer releases them when it notices that the job has ended.
        with contextlib.suppress(RayError):
            remove_placement_group(group)

    def remove_all(self) -> None:
        """Release all CPUs."""
        for group in list(self._groups):
            self.remove(group)

    def create_placed(
        self, max_groups: int, should_stop: Callable[[], bool]
    ) -> dict[PlacementGroup, str]:
        """Create groups of one CPU; return the node of each that Ray places in `_SETTLE_S`."""
        missing = [self.create_extra() for _ in range(max_groups)]
        nodes: dict[PlacementGroup, str] = {}
        deadline = time.monotonic() + _SETTLE_S
        while True:
            for group in list(missing):
                if placement_group_table(group)["state"] == "CREATED":
                    nodes[group] = nodes_of(group)[0]
                    missing.remove(group)
            if not missing or time.monotonic() > deadline or should_stop():
                break
            time.sleep(_POLL_S)
        for group in missing:
            self.remove(group)
        return nodes


def _free_cpus() -> int:
    return int(ray.available_resources().get("CPU", 0))  # type: ignore[no-untyped-call]  # Ray's


def nodes_of(group: PlacementGroup) -> dict[int, str]:
    """Return the node of each bundle; it is empty for a bundle without one."""
    return dict(placement_group_table(group)["bundles_to_node_id"])


def wait_for_group(group: PlacementGroup, cpus: int, policy: ScalingPolicy) -> None:
    """Wait until a group has its CPUs, and log what it waits for."""
    wanted = f"{cpus} free {'CPU' if cpus == 1 else 'CPUs'}"
    started = time.monotonic()
    logged = 0
    while not group.wait(scaling_policy.SUPERVISION_INTERVAL_S):
        if policy.should_stop():
            raise ClusterUnreachable(f"stopped while waiting for {wanted}")
        total = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]  # Ray's
        free, waited = _free_cpus(), time.monotonic() - started
        # Enough free CPUs are either granted in a moment, or are fractions on several nodes.
        if total != logged and (free < cpus or waited > _SETTLE_S):
            limit = scaling_policy.format_limit(policy.resource_timeout)
            seen = f"the cluster has {total} in total, {free} free"
            _logger.info("waiting for %s: %s; %s", wanted, seen, limit)
            logged = total
        if waited > policy.resource_timeout:
            raise ClusterUnreachable(
                f"the cluster did not have {wanted} within {policy.resource_timeout:.0f} s",
                hint="use fewer workers (cluster.workers), or check 'ray status'",
            )


class ClusterMonitor:
    """A view of the cluster: the nodes of a job's CPUs, and the number that it may have."""

    def __init__(self, demand: Demand) -> None:
        self.share = demand.max_cpus  #: The number of CPUs that the job may have.
        self._demand = demand
        self._last_share = demand.max_cpus  #: The share that the last refresh found.
        self._nodes: dict[str, Mapping[int, str]] = {}  #: For each group, the nodes of its bundles.
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
            # Ray raises errors of many types; the caller's requests report a head that is away.
            with contextlib.suppress(Exception):
                self.refresh()

    def refresh(self) -> None:
        """Read the cluster's state."""
        started = time.monotonic()
        groups: Mapping[str, Mapping[str, Any]] = placement_group_table()
        if self._closed.is_set():
            # A request to Ray after its shutdown would start it again.
            return
        free = _free_cpus()
        self._nodes = {group: row["bundles_to_node_id"] for group, row in groups.items()}
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
