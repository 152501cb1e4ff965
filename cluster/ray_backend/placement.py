"""CPUs for a job's workers, as placement groups of the Ray cluster that this process is part of."""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sumgrad.cluster.errors import ClusterUnreachable
from sumgrad.cluster.ray_backend.fair_share import Claim, claims, share_of
from sumgrad.cluster.ray_backend.session import is_local_instance
from sumgrad.cluster.workers.scaling_policy import LOOK_S, ScalingPolicy

#: CPUs that were just given back may take so long to be free again, in seconds.
_SETTLE_S = 2.0
#: How often a job looks what others want, in seconds …
_WATCH_S = 2.0
#: … unless a look takes more than this part of the time: Ray's table has all groups of a cluster's
#: life, and 2,000 of them take 66 ms to read.
_WATCH_PART = 1 / 50
#: How often it is looked whether CPUs that were free are ours, in seconds.
_LOOK_S = 0.05
#: How long a last look may take once the job is over, in seconds.
_LAST_LOOK_S = 5.0


@dataclass(frozen=True)
class WorkerSlot:
    """Where a worker's process goes.

    Attributes:
        lanes: Threads that compute in it.
        bundle: Of the group with the least, its first one.
        is_remote: On another node than the driver.
    """

    lanes: int = 1
    bundle: int = 0
    is_remote: bool = False


def worker_slots(nodes: Mapping[int, str], own: str) -> list[WorkerSlot]:
    """Processes for bundles of one CPU each.

    On the driver's node each worker has a process of its own. Those on another node are threads of
    one process, so that their sums are added before they travel.

    >>> for place in worker_slots({0: "a", 1: "b", 2: "b"}, own="a"):
    ...     print(place)
    WorkerSlot(lanes=1, bundle=0, is_remote=False)
    WorkerSlot(lanes=2, bundle=1, is_remote=True)

    Args:
        nodes: The node of each bundle.
        own: The driver's node.
    """
    near = [WorkerSlot(bundle=bundle) for bundle, node in sorted(nodes.items()) if node == own]
    far = [
        WorkerSlot(lanes=len(bundles), bundle=bundles[0], is_remote=True)
        for node in sorted(set(nodes.values()) - {own})
        if (bundles := sorted(bundle for bundle, at in nodes.items() if at == node))
    ]
    return near + far


class Placement:
    """CPUs for the workers, and which processes make use of them.

    The least that a job needs are the bundles of one placement group, which it has whole or not at
    all and keeps to its end. Each CPU more is a group of its own, which can be given back while the
    job computes. An instance of our own has the CPUs that were asked for, and nobody else to use
    them.

    Args:
        workers: CPUs that the job can make use of, as far as they are there now.
        rules: The least, how long to wait for them, and whom to tell.

    Attributes:
        first: How many places there are to begin with.
        extra: How many more there can be.
        has_others: Whether there may be workers on other nodes.

    Raises:
        ClusterUnreachable: The cluster does not give so many in time, or it is time to stop.
    """

    def __init__(self, workers: int, rules: ScalingPolicy) -> None:
        self.group: PlacementGroup | None = None
        #: Those of the least, and those that there are more to begin with.
        self._places = [WorkerSlot()] * workers
        #: Of each place beyond the least that is in use: its groups, of one CPU each.
        self._more: dict[int, list[PlacementGroup]] = {}
        #: All groups that there are, in the order in which they were made.
        self._groups: list[PlacementGroup] = []
        self._numbers = count()
        self._kept = self.first = workers
        self.extra = 0
        self.has_others = _nodes() > 1 or rules.extra > 0
        self._watch: _Watch | None = None
        if is_local_instance() and not self.has_others:
            return
        least, most = min(rules.least, workers), workers + rules.extra
        self._claim = Claim.new(least, most)
        try:
            self.group = self._new_group(self._claim.least_group, least)
            self._await(self.group, least, rules)
            self._own = ray.get_runtime_context().get_node_id()
            self._places = worker_slots(_nodes_of(self.group), self._own)
            self._kept = len(self._places)
            self._watch = _Watch(self._claim)
            began = least + self._take_more(min(workers, self._watch.share) - least, rules)
        except BaseException:
            self.close()
            raise
        if began < workers:
            rules.note(
                f"{began} of {workers} CPUs are free: begins with as many workers, and more join "
                "when there is room"
            )
        self.first = len(self._places)
        self.extra = self._kept + most - least - self.first
        # Who comes later may come on a node that is not there yet.
        self.has_others = self.has_others or most > least

    def _await(self, group: PlacementGroup, workers: int, rules: ScalingPolicy) -> None:
        began = time.monotonic()
        deadline = began + rules.wait_s
        told = ""
        while not group.wait(LOOK_S):
            if rules.is_stopping():
                raise ClusterUnreachable(f"stopped while waiting for {_free(workers)}")
            total = _cpus(ray.cluster_resources())  # type: ignore[no-untyped-call]  # Ray's
            what = f"waiting for {_free(workers)}: the cluster has {total} in all"
            free = _cpus(ray.available_resources())  # type: ignore[no-untyped-call]
            # Where there are enough, they are ours in a moment, or are free in parts only.
            is_clear = free < workers or time.monotonic() > began + _SETTLE_S
            if what != told and is_clear:
                rules.note(f"{what}, {free} of them free; {_at_most(rules.wait_s)}")
                told = what
            if time.monotonic() > deadline:
                raise ClusterUnreachable(
                    f"the cluster did not have {_free(workers)} within {rules.wait_s:.0f} s",
                    hint="ask for fewer workers (cluster.workers) or look at 'ray status'",
                )

    def _take_more(self, wanted: int, rules: ScalingPolicy) -> int:
        """Places for what is free beyond the least; gives how many CPUs they have."""
        if wanted <= 0:
            return 0
        groups = [self._one_more() for _ in range(_free_cpus(wanted, rules.is_stopping))]
        at = self._placed(groups)
        for place in worker_slots(at, self._own):
            node = at[place.bundle]
            used = [n for n in at if at[n] == node] if place.is_remote else [place.bundle]
            self._more[len(self._places)] = [groups[number] for number in used]
            self._places.append(replace(place, bundle=0))
        return len(at)

    def _placed(self, groups: Sequence[PlacementGroup]) -> dict[int, str]:
        """By number, the nodes of the groups that have their CPU in a moment; others are removed.

        The CPUs were free; somebody else may have been quicker.
        """
        at: dict[int, str] = {}
        deadline = time.monotonic() + _SETTLE_S
        while True:
            # Ray's own way to wait for a group counts in whole seconds.
            for number, group in enumerate(groups):
                if number not in at and _is_there(group):
                    at[number] = _nodes_of(group)[0]
            if len(at) == len(groups) or time.monotonic() > deadline:
                break
            time.sleep(_LOOK_S)
        for number, group in enumerate(groups):
            if number not in at:
                self._remove(group)
        return at

    # --- groups

    def _new_group(self, name: str, cpus: int) -> PlacementGroup:
        group: PlacementGroup = placement_group([{"CPU": 1}] * cpus, strategy="PACK", name=name)
        self._groups.append(group)
        return group

    def _one_more(self) -> PlacementGroup:
        return self._new_group(self._claim.more_group(next(self._numbers)), 1)

    def _remove(self, group: PlacementGroup) -> None:
        self._groups.remove(group)
        # Where the cluster is away, it notices by itself that its job is over.
        with contextlib.suppress(RayError):
            remove_placement_group(group)

    # --- places

    def is_kept(self, worker: int) -> bool:
        """Whether a worker's place is one of the least."""
        return worker < self._kept

    def share(self) -> int:
        """How many CPUs the job may have, as far as is known."""
        return len(self._places) + self.extra if self._watch is None else self._watch.share

    def take(self, worker: int) -> WorkerSlot:
        """The place of a worker that is about to be started; CPUs are asked for if it has none.

        Where the CPUs of several threads are no longer on one node it gets one of them.

        Raises:
            RayError: The cluster takes no requests now.
        """
        if self._watch is None or self.is_kept(worker):
            return self._places[worker]
        groups = self._more.setdefault(worker, [])
        if not groups:
            groups.append(self._one_more())
        if len(groups) > 1 and len({self._watch.node_of(group) for group in groups}) == 1:
            return self._places[worker]
        for group in groups[1:]:
            self._remove(group)
        del groups[1:]
        return WorkerSlot()

    def is_as_taken(self, worker: int) -> bool:
        """Whether a worker's CPUs are on one node, where its threads are.

        Asked when it joins: it may have been started before it was known that its node is gone.
        """
        groups = self._more.get(worker, [])
        return len(groups) < 2 or len({_nodes_of(group).get(0) for group in groups}) == 1

    def strategy(self, worker: int) -> Any:
        """Ray's scheduling strategy for a worker."""
        if self.group is None:
            return "DEFAULT"
        group, bundle = (
            (self.group, self._places[worker].bundle)
            if self.is_kept(worker)
            else (self._more[worker][0], 0)
        )
        return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)

    def has_room(self, worker: int) -> bool:
        """Whether a worker's CPU is there: not while its node is gone, and no other has been found.

        Not either while it waits for one of its own.
        """
        if self._watch is None or self.group is None:
            return True
        if self.is_kept(worker):
            return bool(self._watch.node_of(self.group, self._places[worker].bundle))
        return all(map(self._watch.node_of, self._more.get(worker, [])))

    def give_back(self, worker: int) -> None:
        """Give back the CPUs of a worker that leaves."""
        for group in self._more.pop(worker, []):
            self._remove(group)

    def close(self) -> None:
        """Give all CPUs back."""
        if self._watch is not None:
            self._watch.close()
        for group in list(self._groups):
            self._remove(group)
        self._more.clear()
        self.group = None


class _Watch:
    """Looks beside the work where the job's CPUs are, and what other jobs want.

    Whoever asks it waits for nobody, also where the cluster's head is away.

    Attributes:
        share: How many CPUs the job may have.
    """

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self.share = claim.most
        #: What the last look found of it.
        self._seen = claim.most
        #: By group of the job's, the nodes of its bundles.
        self._nodes: dict[str, Mapping[int, str]] = {}
        #: How long the last look took, in seconds.
        self._took = 0.0
        self._ended = threading.Event()
        self._look()
        self.share = self._seen
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def node_of(self, group: PlacementGroup, bundle: int = 0) -> str | None:
        """The node of a bundle; None where it is on none, as far as is known."""
        return self._nodes.get(group.id.hex(), {}).get(bundle) or None

    def _run(self) -> None:
        while not self._ended.wait(max(_WATCH_S, self._took / _WATCH_PART)):
            # Ray raises all kinds of errors. A head that is away is noticed where it matters.
            with contextlib.suppress(Exception):
                self._look()

    def _look(self) -> None:
        began = time.monotonic()
        groups: Mapping[str, Mapping[str, Any]] = placement_group_table()
        if self._ended.is_set():
            # What is asked of Ray once it is shut down starts it anew.
            return
        free = _cpus(ray.available_resources())  # type: ignore[no-untyped-call]  # Ray's
        self._nodes = {
            group: facts["bundles_to_node_id"]
            for group, facts in groups.items()
            if self._claim.owns(facts["name"])
        }
        seen = share_of(self._claim, claims(groups.values()), free)
        # The two questions have answers of two moments, between which a CPU may be nobody's; so
        # nothing is given back for one look alone.
        self.share, self._seen = max(seen, self._seen), seen
        self._took = time.monotonic() - began

    def close(self) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join(_LAST_LOOK_S)


def _is_there(group: PlacementGroup) -> bool:
    """Whether a group has its CPUs."""
    return bool(placement_group_table(group)["state"] == "CREATED")


def _nodes_of(group: PlacementGroup) -> dict[int, str]:
    """By bundle, the node that it is on; nothing where it is on none."""
    return dict(placement_group_table(group)["bundles_to_node_id"])


def _free_cpus(wanted: int, is_stopping: Callable[[], bool]) -> int:
    """CPUs that nobody uses, at most as many as wanted; it waits a moment for them."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        free = _cpus(ray.available_resources())  # type: ignore[no-untyped-call]
        if free >= wanted or time.monotonic() > deadline or is_stopping():
            return min(free, wanted)
        time.sleep(0.1)


def _free(cpus: int) -> str:
    """So many, in words."""
    return f"{cpus} free {'CPU' if cpus == 1 else 'CPUs'}"


def _at_most(seconds: float) -> str:
    """A time to wait, in words.

    >>> _at_most(300), _at_most(30 * 86_400)
    ('for 300 s at most', 'for 30 days at most')
    """
    day = 86_400
    return (
        f"for {seconds:.0f} s at most"
        if seconds < 2 * day
        else f"for {seconds / day:.0f} days at most"
    )


def _cpus(resources: Mapping[str, float]) -> int:
    """Whole CPUs among a cluster's resources."""
    return int(resources.get("CPU", 0))


def _nodes() -> int:
    """How many nodes the cluster has."""
    nodes: Sequence[Mapping[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's
    return sum(node["Alive"] for node in nodes)
