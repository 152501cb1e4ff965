"""No microbatch is lost or counted twice, in any order of replies, losses and late workers."""

import random
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumgrad.cluster.planning.reduction import Node, PartialSum, TreeReduction
from sumgrad.cluster.planning.work_stealing import ClaimTable, StepSchedule, split_evenly
from tests.fuzzing import cases


@cases(50)
@given(count=st.integers(0, 3000), threads=st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_shares_are_neighbours_and_nearly_even(count: int, threads: list[int]) -> None:
    shares = split_evenly(count, threads)
    assert [index for share in shares for index in share] == list(range(count))
    fair = count / sum(threads)
    for share, own in zip(shares, threads, strict=True):
        assert abs(len(share) - own * fair) <= 1 + fair / 8


@pytest.mark.parametrize(("count", "workers"), [(64, 2), (100, 3), (235, 2), (1000, 8)])
def test_shares_reduce_to_few_nodes(count: int, workers: int) -> None:
    for share in split_evenly(count, [1] * workers):
        assert len(nodes_of(share, count)) <= 6


def test_bounds_are_multiples_of_a_power_of_two() -> None:
    assert split_evenly(1000, [1, 2]) == [range(336), range(336, 1000)]


def nodes_of(microbatches: Iterable[int], count: int) -> list[Node]:
    """Return the maximal nodes of these leaves; their divergence shows how often each counts."""
    tree = TreeReduction(count)
    for index in microbatches:
        tree.add(Node(0, index, PartialSum(None, float(1 << min(index, 40)), 0, 1)))
    return tree.nodes()


class Simulation:
    """Workers that compute one microbatch at a time in a random order.

    Args:
        count: Number of microbatches.
        workers: Number of workers.
        seed: Seed of the order.
        lose: Whether workers are lost.
        late: Whether idle workers speculate.
    """

    def __init__(self, count: int, workers: int, seed: int, *, lose: bool, late: bool) -> None:
        self.count = count
        self.lose = lose
        self.late = late
        self.random = random.Random(seed)
        self.claims = ClaimTable.local(workers)
        self.schedule = StepSchedule(range(count), self.claims)
        self.running: dict[int, tuple[Iterator[int], list[int]]] = {
            worker: (self.claims.iter_claimed(worker, share), [])
            for worker, share in self.schedule.start(dict.fromkeys(range(workers), 1)).items()
        }
        self.idle = set(range(workers)) - set(self.running)
        self.computed = 0

    def step(self) -> None:
        """Let one worker compute a microbatch, deliver or disappear."""
        worker = self.random.choice(sorted(self.running))
        claimed, done = self.running[worker]
        if self.lose and self.random.random() < 0.05:
            self.schedule.requeue(worker)
        elif (index := next(claimed, None)) is not None:
            self.computed += 1
            done.append(index)
            return
        else:
            self.schedule.deliver(worker, nodes_of(done, self.count))
        del self.running[worker]
        self.idle.add(worker)
        self.dispatch_idle()

    def dispatch_idle(self) -> None:
        for worker in sorted(self.idle):
            if self.schedule.complete:
                return
            assignment = self.schedule.next_assignment(worker)
            if assignment is None and self.late:
                late = self.random.choice(sorted(self.running))
                assignment = self.schedule.speculate(worker, late)
            if assignment is not None:
                self.idle.remove(worker)
                self.running[worker] = (self.claims.iter_claimed(worker, assignment), [])

    def run(self) -> None:
        while not self.schedule.complete:
            assert self.running, "microbatches are missing but no worker has them"
            assert self.schedule.busy == set(self.running)
            self.step()


@cases(100)
@given(
    count=st.integers(1, 70),
    workers=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    lose=st.booleans(),
    late=st.booleans(),
)
def test_every_microbatch_is_delivered_and_counted_once(
    count: int, workers: int, seed: int, lose: bool, late: bool
) -> None:
    simulation = Simulation(count, workers, seed, lose=lose, late=late)
    simulation.run()
    tree = TreeReduction(count)
    for node in simulation.schedule.nodes():
        tree.add(node)
    root = tree.root(count)
    assert root.divergence == sum(float(1 << min(index, 40)) for index in range(count))
    if not (lose or late):
        assert simulation.computed == count, "a microbatch was computed twice without need"


def start(count: int, workers: int) -> tuple[ClaimTable, StepSchedule]:
    claims = ClaimTable.local(workers)
    schedule = StepSchedule(range(count), claims)
    schedule.start(dict.fromkeys(range(workers), 1))
    return claims, schedule


def test_the_end_of_a_slow_workers_share_is_stolen() -> None:
    claims, schedule = start(16, 2)
    slow = claims.iter_claimed(0, range(8))
    assert next(slow) == 0
    assert schedule.deliver(1, nodes_of(range(8, 16), 16)) == 8
    assert schedule.next_assignment(1) == range(4, 8)
    assert list(slow) == [1, 2, 3]


def test_work_is_stolen_from_the_worker_with_the_most_left() -> None:
    claims, schedule = start(12, 3)
    for worker, done in ((0, 3), (1, 1)):
        claimed = claims.iter_claimed(worker, range(4 * worker, 4 * worker + 4))
        assert len([next(claimed) for _ in range(done)]) == done
    schedule.deliver(2, nodes_of(range(8, 12), 12))
    assert (claims.remaining(0), claims.remaining(1)) == (1, 3)
    assert schedule.next_assignment(2) == range(6, 8)


def test_nothing_is_stolen_that_has_been_started() -> None:
    _, schedule = start(2, 2)
    schedule.deliver(1, nodes_of([1], 2))
    assert schedule.next_assignment(1) is None
    assert not schedule.complete


def test_nothing_is_stolen_from_a_worker_that_cannot_see_its_limit() -> None:
    claims, schedule = start(16, 2)
    claims.forbid_stealing(0)
    assert (claims.current(0), claims.remaining(0)) == (7, 0)
    schedule.deliver(1, nodes_of(range(8, 16), 16))
    assert schedule.next_assignment(1) is None


def test_no_worker_starts_a_microbatch_after_cancellation() -> None:
    claims, _ = start(16, 2)
    claimed = claims.iter_claimed(1, range(8, 16))
    assert next(claimed) == 8
    claims.cancel_all()
    assert list(claimed) == []
    assert list(claims.iter_claimed(0, range(8))) == []
    assert claims.remaining(0) == 0
    assert claims.current(1) == 9, "the driver sees that the worker is still alive"


def test_a_late_workers_microbatches_are_copied_once_and_its_own_reply_counts_too() -> None:
    claims, schedule = start(12, 3)
    late = claims.iter_claimed(0, range(4))
    assert [next(late) for _ in range(4)] == [0, 1, 2, 3]
    for worker in (1, 2):
        schedule.deliver(worker, nodes_of(range(4 * worker, 4 * worker + 4), 12))
    assert schedule.next_assignment(1) is None
    assert schedule.speculate(1, late=0) == range(4), "nothing of it has been delivered"
    assert schedule.speculate(2, late=0) is None
    assert schedule.next_assignment(2) == range(2, 4), "a copy can be stolen like other work"
    schedule.requeue(0)
    schedule.deliver(1, nodes_of([0, 1], 12))
    schedule.deliver(2, nodes_of([2, 3], 12))
    assert schedule.complete
    assert sum(node.sum.count for node in schedule.nodes()) == 12


def test_what_a_second_worker_computes_is_queued_when_that_one_is_lost_too() -> None:
    _, schedule = start(2, 2)
    schedule.deliver(1, nodes_of([1], 2))
    assert schedule.speculate(1, late=0) == range(1)
    schedule.requeue(0)
    assert schedule.next_assignment(0) is None
    schedule.requeue(1)
    assert schedule.next_assignment(0) == range(1)


def test_a_late_worker_with_new_work_is_responsible_for_it() -> None:
    _, schedule = start(8, 2)
    schedule.deliver(1, nodes_of(range(4, 8), 8))
    assert schedule.speculate(1, late=0) == range(4)
    schedule.requeue(0)
    assert schedule.next_assignment(0) == range(2, 4)
    schedule.requeue(0)
    assert schedule.next_assignment(0) == range(2, 4), "queued again when it is lost"


def test_the_microbatches_of_a_lost_worker_are_queued_for_the_next_one() -> None:
    _, schedule = start(12, 3)
    schedule.requeue(1)
    assert schedule.busy == {0, 2}
    assert schedule.next_assignment(1) == range(4, 8)


def test_a_schedule_of_a_part_starts_within_it() -> None:
    schedule = StepSchedule(range(4, 10), ClaimTable.local(2))
    assert schedule.start({0: 1, 1: 1}) == {0: range(4, 7), 1: range(7, 10)}
    schedule.deliver(0, nodes_of(range(4, 7), 10))
    assert not schedule.complete
    schedule.deliver(1, nodes_of(range(7, 10), 10))
    assert schedule.complete


def test_a_node_at_the_right_edge_counts_existing_microbatches_only() -> None:
    _, schedule = start(5, 1)
    assert schedule.deliver(0, nodes_of(range(5), 5)) == 5


def test_more_workers_than_microbatches_leave_some_idle() -> None:
    _, schedule = start(2, 3)
    assert len(schedule.busy) == 2


def test_everything_is_queued_while_there_is_no_worker() -> None:
    schedule = StepSchedule(range(3), ClaimTable.local(1))
    assert schedule.start({}) == {}
    assert schedule.next_assignment(0) == range(3)


def test_a_microbatch_that_two_workers_computed_is_counted_once() -> None:
    """The driver lowers a limit just after the worker has read it."""
    _, schedule = start(8, 2)
    schedule.deliver(1, nodes_of(range(4, 8), 8))
    assert schedule.next_assignment(1) == range(2, 4)
    schedule.deliver(0, nodes_of(range(4), 8))
    schedule.deliver(1, nodes_of(range(2, 4), 8))
    assert schedule.complete
    assert [(node.level, node.index) for node in schedule.nodes()] == [(2, 0), (2, 1)]


@pytest.mark.parametrize(
    ("current", "stolen"), [(9, 0), (8, 1), (7, 1), (6, 2), (5, 2), (0, 5), (-1, 5)]
)
def test_the_later_half_of_what_has_not_been_started_is_stolen(current: int, stolen: int) -> None:
    claims = ClaimTable.local(1)
    claims.assign(0, range(current, 10))
    assert claims.steal(0) == range(10 - stolen, 10)
    assert claims.limit(0) == 10 - stolen
