"""What each of several jobs on a cluster may have."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumgrad.cluster.ray_backend.fair_share import Demand, cpu_share, max_min_fair, read_demands
from sumgrad.cluster.workers.scaling_policy import choose_workers_to_release


def row(
    name: str, nodes: list[str] | None = None, *, bundles: int = 1, state: str = "CREATED"
) -> dict[str, Any]:
    """A row of Ray's placement group table; by default all bundles are on one node."""
    at = ["n"] * bundles if nodes is None else nodes
    return {"name": name, "state": state, "bundles_to_node_id": dict(enumerate(at))}


def test_a_demand_is_read_from_the_names_of_groups() -> None:
    own = Demand.new(min_cpus=2, max_cpus=9)
    demands = read_demands(
        [
            row(own.group_name("required"), bundles=2),
            row(own.group_name("extra0")),
            row(own.group_name("extra1")),
            row(own.group_name("extra2"), [""], state="PENDING"),
            row(own.group_name("extra3"), state="PREPARED"),
            row(own.group_name("extra4"), state="REMOVED"),
            row(""),
            row("sumgrad"),
            row("another program's"),
        ]
    )
    assert demands == {own.job: Demand(own.job, 2, 9, allocated=4, is_waiting=False)}


@pytest.mark.parametrize("state", ["PENDING", "PREPARED"])
def test_a_waiting_job_is_listed(state: str) -> None:
    own = Demand.new(2, 2)
    assert read_demands([row(own.group_name("required"), ["a", "b"], state=state)]) == {
        own.job: own
    }


def test_cpus_of_a_lost_node_are_not_allocated() -> None:
    own = Demand.new(2, 4)
    demands = read_demands([row(own.group_name("required"), ["a", ""], state="RESCHEDULING")])
    assert demands == {own.job: Demand(own.job, 2, 4, allocated=1, is_waiting=True)}


def test_later_jobs_sort_after_earlier_ones() -> None:
    jobs = [Demand.new(1, 1).job for _ in range(20)]
    assert jobs == sorted(jobs)
    assert len(set(jobs)) == 20


def running(job: str, min_cpus: int, max_cpus: int, allocated: int = 0) -> Demand:
    return Demand(job, min_cpus, max_cpus, allocated, is_waiting=False)


@pytest.mark.parametrize(
    ("jobs", "cpus", "shares"),
    [
        ([running("a", 1, 8)], 8, {"a": 8}),
        ([running("a", 1, 8), running("b", 1, 8)], 8, {"a": 4, "b": 4}),
        # A job that can use only a few leaves the rest to others.
        ([running("a", 1, 8), running("b", 1, 2)], 8, {"a": 6, "b": 2}),
        # What does not divide goes to the earliest jobs.
        ([running("a", 1, 8), running("b", 1, 8), running("c", 1, 8)], 8, {"a": 3, "b": 3, "c": 2}),
        # A job keeps its minimum, even if that is more than others have.
        ([running("a", 6, 8), running("b", 1, 8)], 8, {"a": 6, "b": 2}),
        # Waiting jobs are served in order.
        ([running("a", 1, 8), Demand("b", 4, 4), Demand("c", 4, 4)], 8, {"a": 4, "b": 4, "c": 0}),
        # For one that does not fit nothing is released, and the next one may have its share.
        ([running("a", 2, 8), Demand("b", 7, 7), Demand("c", 2, 2)], 8, {"a": 6, "b": 0, "c": 2}),
        # A cluster that has shrunk.
        ([running("a", 4, 8), running("b", 1, 8)], 3, {"a": 4, "b": 1}),
    ],
)
def test_max_min_fair(jobs: list[Demand], cpus: int, shares: dict[str, int]) -> None:
    assert max_min_fair(jobs, cpus) == shares
    assert max_min_fair(reversed(jobs), cpus) == shares


@st.composite
def crowds(draw: st.DrawFn) -> list[Demand]:
    def demand(job: str) -> Demand:
        minimum = draw(st.integers(1, 6))
        return Demand(job, minimum, draw(st.integers(minimum, 12)), 0, draw(st.booleans()))

    return [demand(job) for job in "abcdef"[: draw(st.integers(1, 6))]]


@given(crowds(), st.integers(0, 40))
def test_shares_are_fair(jobs: list[Demand], cpus: int) -> None:
    shares = max_min_fair(jobs, cpus)
    needed = sum(demand.min_cpus for demand in jobs if not demand.is_waiting)
    assert sum(shares.values()) <= max(cpus, needed)
    for demand in jobs:
        assert shares[demand.job] in range(demand.min_cpus, demand.max_cpus + 1) or (
            demand.is_waiting and not shares[demand.job]
        )
    # No CPU is unused that a computing job could use.
    computing = [demand for demand in jobs if shares[demand.job]]
    if any(shares[demand.job] < demand.max_cpus for demand in computing):
        assert sum(shares.values()) >= cpus
    # No job has two more than another that could use more, apart from minimums.
    for demand in computing:
        for other in computing:
            if shares[demand.job] > demand.min_cpus and shares[other.job] < other.max_cpus:
                assert shares[demand.job] <= shares[other.job] + 1


@pytest.mark.parametrize(
    ("own", "other", "free", "share"),
    [
        # Alone, or where no other job lacks CPUs, a job may ask for all that it can use.
        (running("a", 1, 8, allocated=2), None, 2, 8),
        (running("a", 1, 8, allocated=4), running("b", 1, 8, allocated=4), 0, 8),
        (running("a", 1, 8, allocated=8), Demand("b", 1, 8), 0, 4),
        # Free CPUs count for all jobs.
        (running("a", 1, 8, allocated=5), Demand("b", 4, 4), 3, 4),
        # For a job that does not fit nothing is released.
        (running("a", 2, 8, allocated=8), Demand("b", 7, 7), 0, 8),
    ],
)
def test_cpu_share(own: Demand, other: Demand | None, free: int, share: int) -> None:
    demands = {demand.job: demand for demand in (own, other) if demand is not None}
    assert cpu_share(own, demands, free) == share


def test_a_job_that_the_cluster_does_not_list_yet_may_ask_for_all() -> None:
    own, other = running("a", 1, 8), running("b", 1, 8, allocated=8)
    assert cpu_share(own, {"b": other}, free=0) == 8


@given(st.dictionaries(st.integers(0, 9), st.integers(1, 5), max_size=8), st.integers(0, 20))
def test_enough_cpus_are_released_and_hardly_more(threads: dict[int, int], excess: int) -> None:
    released = choose_workers_to_release(threads, excess)
    cpus = sum(threads[worker] for worker in released)
    assert len(set(released)) == len(released)
    assert cpus >= min(excess, sum(threads.values()))
    # Without any one of them it would not be enough.
    assert all(cpus - threads[worker] < excess for worker in released)


def test_jobs_reach_fair_shares_independently() -> None:
    """Each reads the same table and changes only what is its own; in the end all are even."""
    allocated = {"a": 8, "b": 0, "c": 0}
    seen: list[dict[str, int]] = []
    for _ in range(6):
        for job, own in allocated.items():
            demands = {j: Demand(j, 1, 8, n, is_waiting=not n) for j, n in allocated.items()}
            free = 8 - sum(allocated.values())
            allocated[job] = min(cpu_share(demands[job], demands, free), own + free)
        seen.append(dict(allocated))
    assert seen[-1] == {"a": 3, "b": 3, "c": 2}
    assert all(before == after for before, after in pairwise(seen[2:]))
