"""Which CPUs of a Ray cluster a job's workers use."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sumgrad.cluster.ray_backend import placement_groups
from sumgrad.cluster.ray_backend.fair_share import Demand
from sumgrad.cluster.ray_backend.placement_groups import ClusterMonitor, JobGroups, nodes_of
from sumgrad.cluster.workers.launcher import Placement
from sumgrad.cluster.workers.scaling_policy import ScalingPolicy

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerSlot:
    """The CPUs of a worker's process."""

    threads: int = 1  #: Threads that compute, one for each of its CPUs.
    bundle: int = 0  #: Its first bundle within the required group.
    is_remote: bool = False  #: Whether it is on another node than the driver.


def worker_slots(nodes: Mapping[int, str], own_node: str) -> list[WorkerSlot]:
    """Return the processes for bundles of one CPU each.

    On the driver's node each worker is a process. The CPUs of another node are threads of one
    process, so that their sums are added before they are sent.

    >>> for slot in worker_slots({0: "a", 1: "b", 2: "b"}, own_node="a"):
    ...     print(slot)
    WorkerSlot(threads=1, bundle=0, is_remote=False)
    WorkerSlot(threads=2, bundle=1, is_remote=True)
    """
    bundles: dict[str, list[int]] = {}
    for bundle, node in sorted(nodes.items()):
        bundles.setdefault(node, []).append(bundle)
    local = [WorkerSlot(bundle=bundle) for bundle in bundles.pop(own_node, [])]
    return local + [WorkerSlot(len(on), on[0], is_remote=True) for _, on in sorted(bundles.items())]


class RayPlacement(Placement):
    """One CPU for each worker, on an instance that only this process uses."""

    def acquire(self, worker: int) -> WorkerSlot:
        """Return the slot of a worker that is about to start; ask for its CPU if it has none."""
        return WorkerSlot()

    def strategy(self, worker: int) -> Any:
        """Return Ray's scheduling strategy for a worker."""
        return "DEFAULT"


class GroupPlacement(RayPlacement):
    """CPUs in placement groups.

    One group, `required`, has the job's minimum of CPUs. Ray grants all of them or none, and the
    job keeps them until it ends. Each further CPU is a separate group, which can be released while
    the job computes.
    """

    def __init__(
        self, groups: JobGroups, required: PlacementGroup, monitor: ClusterMonitor
    ) -> None:
        demand = groups.demand
        self._groups = groups
        self._required = required
        self._monitor = monitor
        self._own_node = ray.get_runtime_context().get_node_id()
        #: Of the minimum, then of the CPUs that were free at the start.
        self._slots = worker_slots(nodes_of(required), self._own_node)
        self._num_required = len(self._slots)
        #: For each worker beyond the minimum, its groups of one CPU each.
        self._extra: dict[int, list[PlacementGroup]] = {}
        extra = demand.max_cpus - demand.min_cpus
        nodes: Sequence[Mapping[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's
        # A port is opened only for workers on other nodes, one of which may not exist yet.
        has_remote = extra > 0 or sum(node["Alive"] for node in nodes) > 1
        host = ray.util.get_node_ip_address() if has_remote else None  # type: ignore[no-untyped-call]
        super().__init__(len(self._slots), extra, host)

    def add_free(self, max_cpus: int, policy: ScalingPolicy) -> int:
        """Add slots for CPUs that are free now, and return their number."""
        if max_cpus <= 0:
            return 0
        placed = self._groups.create_placed(max_cpus, policy.should_stop)
        groups, nodes = list(placed), list(placed.values())
        for slot in worker_slots(dict(enumerate(nodes)), self._own_node):
            same = [g for g, node in placed.items() if node == nodes[slot.bundle]]
            self._extra[len(self._slots)] = same if slot.is_remote else [groups[slot.bundle]]
            self._slots.append(replace(slot, bundle=0))
            self.initial_workers += 1
            self.extra_cpus -= 1
        return len(placed)

    def acquire(self, worker: int) -> WorkerSlot:
        if self.is_required(worker):
            return self._slots[worker]
        groups = self._extra.setdefault(worker, [])
        if not groups:
            groups.append(self._groups.create_extra())
        if len(groups) > 1 and len(set(map(self._monitor.node_of, groups))) == 1:
            return self._slots[worker]
        # Its threads need CPUs on one node; otherwise it has one thread.
        for group in groups[1:]:
            self._groups.remove(group)
        del groups[1:]
        return WorkerSlot()

    def strategy(self, worker: int) -> Any:
        if self.is_required(worker):
            group, bundle = self._required, self._slots[worker].bundle
        else:
            group, bundle = self._extra[worker][0], 0
        return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)

    def is_required(self, worker: int) -> bool:
        return worker < self._num_required

    def has_cpus(self, worker: int) -> bool:
        if self.is_required(worker):
            return bool(self._monitor.node_of(self._required, self._slots[worker].bundle))
        return all(map(self._monitor.node_of, self._extra.get(worker, [])))

    def has_moved(self, worker: int) -> bool:
        # A process with several threads may have been started before its node was known to be gone.
        groups = self._extra.get(worker, [])
        return len(groups) > 1 and len({nodes_of(group).get(0) for group in groups}) > 1

    def cpu_share(self) -> int:
        return self._monitor.share

    def release(self, worker: int) -> None:
        for group in self._extra.pop(worker, []):
            self._groups.remove(group)

    def close(self) -> None:
        self._monitor.close()
        self._groups.remove_all()
        self._extra.clear()


def acquire_placement(max_cpus: int, policy: ScalingPolicy, *, is_shared: bool) -> RayPlacement:
    """Wait for a job's minimum of CPUs, and add those that are free, up to `max_cpus` in total.

    A Ray instance that this process started is not shared, and has enough CPUs. Raises
    `ClusterUnreachable` if the minimum is not granted in time, or a stop is requested.
    """
    if not is_shared and not policy.extra_cpus:
        return RayPlacement(max_cpus)
    demand = Demand.new(min(policy.min_cpus, max_cpus), max_cpus + policy.extra_cpus)
    groups, monitor = JobGroups(demand), ClusterMonitor(demand)
    try:
        required = groups.create("required", demand.min_cpus)
        placement_groups.wait_for_group(required, demand.min_cpus, policy)
        monitor.start()
        placement = GroupPlacement(groups, required, monitor)
        wanted = min(max_cpus, monitor.share) - demand.min_cpus
        cpus = demand.min_cpus + placement.add_free(wanted, policy)
    except BaseException:
        monitor.close()
        groups.remove_all()
        raise
    if cpus < max_cpus:
        later = "more workers join when CPUs become free"
        _logger.info("%d of %d CPUs are free: starting with these; %s", cpus, max_cpus, later)
    return placement
