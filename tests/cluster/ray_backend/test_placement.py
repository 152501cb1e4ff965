"""The CPUs that a job asks Ray for, with a fake Ray that a test controls."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import ray
from ray.exceptions import RayError

from sumgrad.cluster.errors import ClusterUnreachable
from sumgrad.cluster.ray_backend import placement_groups
from sumgrad.cluster.ray_backend.placement import (
    GroupPlacement,
    RayPlacement,
    WorkerSlot,
    acquire_placement,
    worker_slots,
)
from sumgrad.cluster.workers.scaling_policy import ScalingPolicy

HEAD, OTHER = "head", "other"


@dataclass(eq=False)
class Group:
    """A placement group of single CPUs."""

    number: int
    name: str
    nodes: list[str] = field(default_factory=list)
    state: str = "PENDING"

    @property
    def id(self) -> "Group":
        return self

    def hex(self) -> str:
        return str(self.number)

    def wait(self, _: float) -> bool:
        return self.state == "CREATED"

    def as_row(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "state": self.state,
            "bundles_to_node_id": dict(enumerate(self.nodes)),
        }


@dataclass
class FakeRay:
    """What a placement needs of Ray."""

    free: dict[str, int]
    groups: list[Group] = field(default_factory=list)
    #: CPUs that are listed as free, and gone when a group asks for them.
    phantoms: int = 0
    #: How many groups can be created before that raises.
    creations: int = 10**6
    removal_fails: bool = False

    def create(self, bundles: list[dict[str, int]], strategy: str, name: str) -> Group:
        if self.creations == 0:
            raise RayError("no more")
        self.creations -= 1
        group = Group(len(self.groups), name, [""] * len(bundles))
        self.groups.append(group)
        self.schedule()
        return group

    def schedule(self) -> None:
        """Grant CPUs to pending groups that fit now."""
        for group in self.groups:
            wanted = len(group.nodes)
            if group.state != "PENDING" or sum(self.free.values()) < wanted:
                continue
            for bundle in range(wanted):
                node = max(self.free, key=lambda node: self.free[node])
                self.free[node] -= 1
                group.nodes[bundle] = node
            group.state = "CREATED"

    def remove(self, group: Group) -> None:
        if self.removal_fails:
            raise RayError("away")
        for node in filter(None, group.nodes):
            self.free[node] += 1
        group.state = "REMOVED"

    def table(self, group: Group | None = None) -> Mapping[str, Any]:
        if group is not None:
            return group.as_row()
        return {each.hex(): each.as_row() for each in self.groups}

    def available(self) -> dict[str, float]:
        return {"CPU": sum(self.free.values()) + self.phantoms}

    @property
    def existing(self) -> list[Group]:
        return [group for group in self.groups if group.state != "REMOVED"]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay({HEAD: 2, OTHER: 3})

    class Context:
        def get_node_id(self) -> str:
            return HEAD

    monkeypatch.setattr(placement_groups, "placement_group", fake.create)
    monkeypatch.setattr(placement_groups, "placement_group_table", fake.table)
    monkeypatch.setattr(placement_groups, "remove_placement_group", fake.remove)
    monkeypatch.setattr(placement_groups, "_SETTLE_S", 0.1)
    # Tests refresh the monitor themselves.
    monkeypatch.setattr(placement_groups, "_INTERVAL_S", 3600.0)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    for name, answer in {
        "nodes": lambda: [{"Alive": True}, {"Alive": True}],
        "cluster_resources": lambda: {"CPU": 5},
        "available_resources": fake.available,
        "get_runtime_context": Context,
    }.items():
        monkeypatch.setattr(ray, name, answer)
    return fake


def acquire(workers: int, **policy: Any) -> GroupPlacement:
    placement = acquire_placement(workers, ScalingPolicy(**policy), is_shared=True)
    assert isinstance(placement, GroupPlacement)
    return placement


def test_cpus_of_another_node_are_threads_of_one_process() -> None:
    slots = worker_slots({0: "b", 1: "a", 2: "c", 3: "b", 4: "a"}, own_node="a")
    assert [(slot.threads, slot.bundle, slot.is_remote) for slot in slots] == [
        (1, 1, False),
        (1, 4, False),
        (2, 0, True),
        (1, 2, True),
    ]


def test_a_private_instance_needs_no_groups(fake: FakeRay) -> None:
    placement = acquire_placement(3, ScalingPolicy(), is_shared=False)
    assert type(placement) is RayPlacement
    assert fake.groups == []
    assert (placement.initial_workers, placement.extra_cpus, placement.cpu_share()) == (3, 0, 3)
    assert all(map(placement.is_required, range(3)))
    assert placement.host is None


def test_free_cpus_beyond_the_minimum_are_used(fake: FakeRay) -> None:
    placement = acquire(5)
    assert [len(group.nodes) for group in fake.existing] == [1] * 5
    workers = range(placement.initial_workers)
    assert [worker for worker in workers if placement.is_required(worker)] == [0]
    # The minimum is on the other node; of the rest two CPUs are there, in one process.
    assert [placement.acquire(worker) for worker in workers] == [
        WorkerSlot(1, 0, is_remote=True),
        WorkerSlot(1),
        WorkerSlot(1),
        WorkerSlot(2, 0, is_remote=True),
    ]
    assert (placement.extra_cpus, placement.cpu_share()) == (1, 5)
    assert placement.host == "127.0.0.1"
    placement.close()
    assert not fake.existing


def test_groups_that_do_not_get_their_cpu_at_once_are_removed(
    fake: FakeRay, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sumgrad")
    fake.free = {HEAD: 3}
    fake.phantoms = 2
    placement = acquire(5)
    assert len(fake.existing) == 3
    assert {group.state for group in fake.existing} == {"CREATED"}
    assert caplog.messages[-1].startswith("3 of 5 CPUs are free: starting with these")
    placement.close()


def test_a_cpu_is_requested_for_an_extra_worker_and_released(fake: FakeRay) -> None:
    fake.free = {HEAD: 1}
    placement = acquire(3)
    assert (placement.initial_workers, placement.extra_cpus) == (1, 2)
    assert placement.acquire(1) == WorkerSlot()
    placement._monitor.refresh()
    assert not placement.has_cpus(1)
    fake.free[HEAD] = 1
    fake.schedule()
    assert not placement.has_cpus(1), "it asks Ray without a refresh"
    placement._monitor.refresh()
    assert placement.has_cpus(1)
    placement.acquire(1)
    assert len(fake.existing) == 2, "a worker that is started again keeps its CPU"
    placement.release(1)
    assert len(fake.existing) == 1
    placement.close()


def test_threads_whose_cpus_are_no_longer_on_one_node_become_one(fake: FakeRay) -> None:
    placement = acquire(5)
    assert placement.acquire(3).threads == 2
    first, second = placement._extra[3]
    second.nodes[0] = HEAD  # type: ignore[attr-defined]
    # It was started before that was known.
    assert placement.has_moved(3)
    placement._monitor.refresh()
    assert placement.acquire(3) == WorkerSlot()
    assert placement._extra[3] == [first]
    assert not placement.has_moved(3)
    placement.close()


def test_one_refresh_alone_lowers_no_share(fake: FakeRay) -> None:
    """Between its two requests a CPU may belong to no job."""
    placement = acquire(5)
    waiting = fake.create([{"CPU": 1}] * 3, "PACK", "sumgrad-ffff-3-3-required")
    placement._monitor.refresh()
    assert placement.cpu_share() == 5
    placement._monitor.refresh()
    assert placement.cpu_share() == 2
    fake.remove(waiting)
    placement._monitor.refresh()
    assert placement.cpu_share() == 5
    placement.close()


@pytest.mark.parametrize("creations", [0, 1, 3])
def test_an_error_in_between_leaves_no_group(fake: FakeRay, creations: int) -> None:
    fake.creations = creations
    with pytest.raises(RayError):
        acquire(5)
    assert not fake.existing


def test_the_minimum_is_waited_for_up_to_the_timeout(
    fake: FakeRay, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sumgrad")
    with pytest.raises(ClusterUnreachable, match="did not have 6 free CPUs within 0 s"):
        acquire(6, min_cpus=6, resource_timeout=0)
    assert not fake.existing
    assert caplog.messages == [
        "waiting for 6 free CPUs: the cluster has 5 in total, 5 free; up to 0 s"
    ]


def test_a_stop_request_ends_the_wait_for_cpus(fake: FakeRay) -> None:
    with pytest.raises(ClusterUnreachable, match="stopped while waiting for 6 free CPUs"):
        acquire(6, min_cpus=6, should_stop=lambda: True)
    assert not fake.existing


def test_a_cluster_that_does_not_answer_is_no_error_when_cpus_are_released(fake: FakeRay) -> None:
    placement = acquire(3)
    fake.removal_fails = True
    placement.release(1)
    placement.close()
    placement.close()
