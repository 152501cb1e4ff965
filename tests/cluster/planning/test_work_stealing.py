"""Who computes what: nothing is forgotten, whatever happens in whatever order."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sumgrad.cluster.planning.reduction import Node, PartialSum, TreeReduction
from sumgrad.cluster.planning.work_stealing import ClaimTable, StepSchedule, shares


@settings(derandomize=True, deadline=None)
@given(shards=st.integers(0, 3000), lanes=st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_shares_are_neighbours_and_almost_even(shards: int, lanes: list[int]) -> None:
    dealt = shares(shards, lanes)
    assert [shard for share in dealt for shard in share] == list(range(shards))
    fair = shards / sum(lanes)
    for share, own in zip(dealt, lanes, strict=True):
        assert abs(len(share) - own * fair) <= 1 + fair / 8


@pytest.mark.parametrize(("shards", "workers"), [(64, 2), (100, 3), (235, 2), (1000, 8)])
def test_shares_make_few_nodes(shards: int, workers: int) -> None:
    for share in shares(shards, [1] * workers):
        assert len(nodes_of(share, shards)) <= 6


def nodes_of(shards: range | list[int], of: int) -> list[Node]:
    """The largest nodes of these leaves; a leaf's divergence tells how often it was counted."""
    tree = TreeReduction(of)
    for shard in shards:
        tree.add(Node(0, shard, PartialSum(None, float(1 << min(shard, 40)), 0, 1)))
    return tree.nodes()


class Simulation:
    """Workers that compute one microbatch at a time, in a random order, and may be lost."""

    def __init__(self, shards: int, workers: int, seed: int, *, late: bool = False) -> None:
        """Where some are late, others are given copies of what they have."""
        self.shards = shards
        self.late = late
        self.random = random.Random(seed)
        self.claims = ClaimTable.of(workers)
        self.schedule = StepSchedule(range(shards), self.claims)
        self.running: dict[int, tuple[Iterator[int], list[int]]] = {
            worker: (self.claims.iter_claimed(worker, share), [])
            for worker, share in self.schedule.start(dict.fromkeys(range(workers), 1)).items()
        }
        self.idle = set(range(workers)) - set(self.running)
        self.computed = 0

    def step(self, lose: bool) -> None:
        """One worker goes on by one microbatch, delivers, or is lost."""
        worker = self.random.choice(sorted(self.running))
        claimed, done = self.running[worker]
        if lose and self.random.random() < 0.05:
            del self.running[worker]
            self.schedule.requeue(worker)
            self.idle.add(worker)
        else:
            shard = next(claimed, None)
            if shard is not None:
                self.computed += 1
                done.append(shard)
                return
            del self.running[worker]
            self.schedule.deliver(worker, nodes_of(done, self.shards))
            self.idle.add(worker)
        self.employ()

    def employ(self) -> None:
        for worker in sorted(self.idle):
            if self.schedule.complete:
                return
            shards = self.schedule.next_assignment(worker)
            if shards is None and self.late:
                late = self.random.choice(sorted(self.running))
                shards = self.schedule.speculate(worker, late)
            if shards is not None:
                self.idle.remove(worker)
                self.running[worker] = (self.claims.iter_claimed(worker, shards), [])

    def run(self, *, lose: bool) -> None:
        while not self.schedule.complete:
            assert self.running, "microbatches are left and nobody has them"
            self.step(lose)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    shards=st.integers(1, 70),
    workers=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    lose=st.booleans(),
    late=st.booleans(),
)
def test_every_micro_shard_is_delivered_and_counted_once(
    shards: int, workers: int, seed: int, lose: bool, late: bool
) -> None:
    simulation = Simulation(shards, workers, seed, late=late)
    simulation.run(lose=lose)
    tree = TreeReduction(shards)
    for node in simulation.schedule.nodes():
        tree.add(node)
    root = tree.root(shards)
    assert root.divergence == sum(float(1 << min(shard, 40)) for shard in range(shards))
    if not (lose or late):
        assert simulation.computed == shards, "something was computed twice without need"


def test_a_slow_workers_rest_is_taken_over_from_its_end() -> None:
    claims = ClaimTable.of(2)
    schedule = StepSchedule(range(16), claims)
    assert schedule.start({0: 1, 1: 1}) == {0: range(8), 1: range(8, 16)}
    slow = claims.iter_claimed(0, range(8))
    assert next(slow) == 0
    schedule.deliver(1, nodes_of(range(8, 16), 16))
    assert schedule.next_assignment(1) == range(4, 8)
    assert list(slow) == [1, 2, 3]


def test_nothing_is_taken_over_that_has_been_begun() -> None:
    claims = ClaimTable.of(2)
    schedule = StepSchedule(range(2), claims)
    schedule.start({0: 1, 1: 1})
    schedule.deliver(1, nodes_of([1], 2))
    assert schedule.next_assignment(1) is None
    assert not schedule.complete


def test_what_a_late_worker_has_is_copied_once_and_its_own_answer_counts_too() -> None:
    claims = ClaimTable.of(3)
    schedule = StepSchedule(range(12), claims)
    assert schedule.start({0: 1, 1: 1, 2: 1}) == {0: range(4), 1: range(4, 8), 2: range(8, 12)}
    late = claims.iter_claimed(0, range(4))
    assert [next(late) for _ in range(4)] == [0, 1, 2, 3]
    for worker in (1, 2):
        schedule.deliver(worker, nodes_of(range(4 * worker, 4 * worker + 4), 12))
    assert schedule.next_assignment(1) is None
    assert schedule.speculate(1, late=0) == range(4), "nothing of it has been delivered"
    assert schedule.speculate(2, late=0) is None
    assert schedule.next_assignment(2) == range(2, 4), (
        "but the copy is shared out as any other work"
    )
    schedule.requeue(0)
    schedule.deliver(1, nodes_of([0, 1], 12))
    schedule.deliver(2, nodes_of([2, 3], 12))
    assert schedule.complete
    assert sum(node.sum.count for node in schedule.nodes()) == 12


def test_everything_is_left_over_where_there_is_nobody_to_begin() -> None:
    schedule = StepSchedule(range(3), ClaimTable.of(1))
    assert schedule.start({}) == {}
    assert schedule.next_assignment(0) == range(3)


def test_what_both_computed_is_counted_once() -> None:
    """The driver lowers a limit at the very moment at which the worker has looked at it."""
    claims = ClaimTable.of(2)
    schedule = StepSchedule(range(8), claims)
    schedule.start({0: 1, 1: 1})
    schedule.deliver(1, nodes_of(range(4, 8), 8))
    assert schedule.next_assignment(1) == range(2, 4)
    schedule.deliver(0, nodes_of(range(4), 8))
    schedule.deliver(1, nodes_of(range(2, 4), 8))
    assert schedule.complete
    assert [(node.level, node.index) for node in schedule.nodes()] in (
        [(2, 0), (2, 1)],
        [(2, 1), (2, 0)],
    )
