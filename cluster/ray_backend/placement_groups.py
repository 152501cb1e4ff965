"""The placement groups of one job."""

import contextlib
import logging
import time
from collections.abc import Callable
from itertools import count

import ray
from ray.exceptions import RayError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from sumgrad.cluster.errors import ClusterUnreachable
from sumgrad.cluster.ray_backend.fair_share import Demand
from sumgrad.cluster.ray_backend.monitor import whole_cpus
from sumgrad.cluster.workers.scaling_policy import (
    SUPERVISION_INTERVAL_S,
    ScalingPolicy,
    format_limit,
)

_logger = logging.getLogger(__name__)

#: Seconds until CPUs that were just released count as free.
_SETTLE_S = 2.0
#: Seconds between two looks whether a group has its CPU; Ray itself waits in whole seconds.
_POLL_S = 0.05


class JobGroups:
    """Creates and removes a job's placement groups.

    Args:
        demand: Names them.
    """

    def __init__(self, demand: Demand) -> None:
        self.demand = demand
        self._groups: list[PlacementGroup] = []
        self._numbers = count()

    def create_required(self) -> PlacementGroup:
        """Create the group with the job's minimum of CPUs."""
        return self._create(self.demand.required_group, self.demand.min_cpus)

    def create_extra(self) -> PlacementGroup:
        """Create a group with one more CPU."""
        return self._create(self.demand.extra_group(next(self._numbers)), 1)

    def _create(self, name: str, cpus: int) -> PlacementGroup:
        group: PlacementGroup = placement_group([{"CPU": 1}] * cpus, strategy="PACK", name=name)
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
        """Create groups for CPUs that are free now.

        Returns:
            The node of each group that got its CPU; the others are removed again.
        """
        groups = [self.create_extra() for _ in range(_count_free(max_groups, should_stop))]
        nodes: dict[PlacementGroup, str] = {}
        deadline = time.monotonic() + _SETTLE_S
        while len(nodes) < len(groups) and time.monotonic() < deadline:
            for group in groups:
                if group not in nodes and _is_created(group):
                    nodes[group] = nodes_of(group)[0]
            if len(nodes) < len(groups):
                time.sleep(_POLL_S)
        for group in groups:
            if group not in nodes:
                # Another job was quicker.
                self.remove(group)
        return nodes


def wait_for_group(group: PlacementGroup, cpus: int, policy: ScalingPolicy) -> None:
    """Wait until a group has its CPUs, and log what it waits for.

    Raises:
        ClusterUnreachable: The timeout has passed, or the job is to stop.
    """
    wanted = f"{cpus} free {'CPU' if cpus == 1 else 'CPUs'}"
    started = time.monotonic()
    logged = 0
    while not group.wait(SUPERVISION_INTERVAL_S):
        if policy.should_stop():
            raise ClusterUnreachable(f"stopped while waiting for {wanted}")
        total = whole_cpus(ray.cluster_resources())  # type: ignore[no-untyped-call]  # Ray's
        free = whole_cpus(ray.available_resources())  # type: ignore[no-untyped-call]
        waited = time.monotonic() - started
        # Enough free CPUs are either granted in a moment, or are fractions on several nodes.
        if total != logged and (free < cpus or waited > _SETTLE_S):
            _logger.info(
                "waiting for %s: the cluster has %d in total, %d free; %s",
                wanted,
                total,
                free,
                format_limit(policy.resource_timeout),
            )
            logged = total
        if waited > policy.resource_timeout:
            raise ClusterUnreachable(
                f"the cluster did not have {wanted} within {policy.resource_timeout:.0f} s",
                hint="use fewer workers (cluster.workers), or check 'ray status'",
            )


def nodes_of(group: PlacementGroup) -> dict[int, str]:
    """Return the node of each bundle; it is empty for a bundle without one."""
    return dict(placement_group_table(group)["bundles_to_node_id"])


def _is_created(group: PlacementGroup) -> bool:
    return bool(placement_group_table(group)["state"] == "CREATED")


def _count_free(max_cpus: int, should_stop: Callable[[], bool]) -> int:
    """Return how many CPUs are free, at most `max_cpus`, after a moment's wait for them."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        free = whole_cpus(ray.available_resources())  # type: ignore[no-untyped-call]
        if free >= max_cpus or time.monotonic() > deadline or should_stop():
            return min(free, max_cpus)
        time.sleep(2 * _POLL_S)
