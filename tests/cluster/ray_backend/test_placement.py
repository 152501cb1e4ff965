"""CPUs that a job asks Ray for, with a Ray of our own that says what a test wants it to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import ray
from ray.exceptions import RayError

from sumgrad.cluster.errors import ClusterUnreachable
from sumgrad.cluster.ray_backend import placement as reservation
from sumgrad.cluster.ray_backend.placement import Placement, WorkerSlot
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
    """What the reservation asks of Ray."""

    free: dict[str, int]
    groups: list[Group] = field(default_factory=list)
    #: CPUs that are free when asked, and gone when they are wanted.
    mirages: int = 0
    #: What making, or removing, so many more groups raises.
    makes: int = 10**6
    removal_fails: bool = False

    def make(self, bundles: list[dict[str, int]], strategy: str, name: str) -> Group:
        if self.makes == 0:
            raise RayError("no more")
        self.makes -= 1
        group = Group(len(self.groups), name, [""] * len(bundles))
        self.groups.append(group)
        self.place()
        return group

    def place(self) -> None:
        """WorkerSlot whatever fits now."""
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
        return {"CPU": sum(self.free.values()) + self.mirages}

    @property
    def living(self) -> list[Group]:
        return [group for group in self.groups if group.state != "REMOVED"]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay({HEAD: 2, OTHER: 3})

    class Context:
        def get_node_id(self) -> str:
            return HEAD

    monkeypatch.setattr(reservation, "placement_group", fake.make)
    monkeypatch.setattr(reservation, "placement_group_table", fake.table)
    monkeypatch.setattr(reservation, "remove_placement_group", fake.remove)
    monkeypatch.setattr(reservation, "is_local_instance", lambda: False)
    monkeypatch.setattr(reservation, "_SETTLE_S", 0.2)
    # Tests look for themselves.
    monkeypatch.setattr(reservation, "_WATCH_S", 3600.0)
    for name, answer in {
        "nodes": lambda: [{"Alive": True}, {"Alive": True}],
        "cluster_resources": lambda: {"CPU": 5},
        "available_resources": fake.available,
        "get_runtime_context": Context,
    }.items():
        monkeypatch.setattr(ray, name, answer)
    return fake


def look(reserved: Placement) -> None:
    """As the watch does from time to time."""
    assert reserved._watch is not None
    reserved._watch._look()


def test_what_is_free_beyond_the_least_is_taken_and_far_threads_share_a_process(
    fake: FakeRay,
) -> None:
    reserved = Placement(5, ScalingPolicy(least=1))
    assert [len(group.nodes) for group in fake.living] == [1] * 5
    assert [worker for worker in range(reserved.first) if reserved.is_kept(worker)] == [0]
    # The least came to be on the other node; of the rest two are there, in one process.
    assert [reserved.take(worker) for worker in range(reserved.first)] == [
        WorkerSlot(1, 0, is_remote=True),
        WorkerSlot(1),
        WorkerSlot(1),
        WorkerSlot(2, 0, is_remote=True),
    ]
    assert (reserved.extra, reserved.share()) == (1, 5)
    reserved.close()
    assert not fake.living


def test_who_was_quicker_is_not_waited_for_and_what_is_there_is_kept(fake: FakeRay) -> None:
    fake.free = {HEAD: 3}
    fake.mirages = 2
    notes: list[str] = []
    reserved = Placement(5, ScalingPolicy(least=1, note=notes.append))
    assert len(fake.living) == 3
    assert {group.state for group in fake.living} == {"CREATED"}
    assert notes[-1].startswith("3 of 5 CPUs are free: begins with as many workers")
    reserved.close()


def test_one_more_is_asked_for_and_given_back(fake: FakeRay) -> None:
    fake.free = {HEAD: 1}
    reserved = Placement(3, ScalingPolicy(least=1))
    assert (reserved.first, reserved.extra) == (1, 2)
    assert reserved.take(1) == WorkerSlot()
    look(reserved)
    assert not reserved.has_room(1)
    fake.free[HEAD] = 1
    fake.place()
    assert not reserved.has_room(1), "it asks nobody by itself"
    look(reserved)
    assert reserved.has_room(1)
    reserved.take(1)
    assert len(fake.living) == 2, "who is started again keeps what it has"
    reserved.give_back(1)
    assert len(fake.living) == 1
    reserved.close()


def test_threads_whose_cpus_are_no_longer_on_one_node_become_one(fake: FakeRay) -> None:
    reserved = Placement(5, ScalingPolicy(least=1))
    assert reserved.take(3).lanes == 2
    first, second = reserved._more[3]
    second.nodes[0] = HEAD  # type: ignore[attr-defined]
    # It was started before that was known.
    assert not reserved.is_as_taken(3)
    look(reserved)
    assert reserved.take(3) == WorkerSlot()
    assert reserved._more[3] == [first]
    assert reserved.is_as_taken(3)
    reserved.close()


def test_a_look_alone_takes_nothing(fake: FakeRay) -> None:
    """Between the two questions of a look a CPU may be nobody's."""
    reserved = Placement(5, ScalingPolicy(least=1))
    waiting = fake.make([{"CPU": 1}] * 3, "PACK", "sumgrad-ffff-3-3-least")
    look(reserved)
    assert reserved.share() == 5
    look(reserved)
    assert reserved.share() == 2
    fake.remove(waiting)
    look(reserved)
    assert reserved.share() == 5
    reserved.close()


@pytest.mark.parametrize("makes", [0, 1, 3])
def test_an_error_in_the_middle_leaves_no_group(fake: FakeRay, makes: int) -> None:
    fake.makes = makes
    with pytest.raises(RayError):
        Placement(5, ScalingPolicy(least=1))
    assert not fake.living


def test_for_the_least_it_waits_no_longer_than_it_may(fake: FakeRay) -> None:
    with pytest.raises(ClusterUnreachable, match="did not have 6 free CPUs within 0 s"):
        Placement(6, ScalingPolicy(least=6, wait_s=0))
    assert not fake.living


def test_a_cluster_that_is_away_is_no_error_when_cpus_are_given_back(fake: FakeRay) -> None:
    reserved = Placement(3, ScalingPolicy(least=1))
    fake.removal_fails = True
    reserved.give_back(1)
    reserved.close()
    reserved.close()
