"""What each of several jobs on a cluster is to have."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumgrad.cluster.ray_backend.fair_share import (
    Claim,
    choose_workers_to_release,
    claims,
    max_min_fair,
    share_of,
)


def group(
    name: str, nodes: list[str] | None = None, *, bundles: int = 1, state: str = "CREATED"
) -> dict[str, Any]:
    """One of Ray's placement groups, as its table has it; without nodes on one of its own."""
    at = ["n"] * bundles if nodes is None else nodes
    return {"name": name, "state": state, "bundles_to_node_id": dict(enumerate(at))}


def test_a_claim_is_in_the_names_of_groups() -> None:
    own = Claim.new(least=2, most=9)
    found = claims(
        [
            group(own.least_group, bundles=2),
            group(own.more_group(0)),
            group(own.more_group(1)),
            group(own.more_group(2), [""], state="PENDING"),
            group(own.more_group(3), state="PREPARED"),
            group(own.more_group(4), state="REMOVED"),
            group(""),
            group("sumgrad"),
            group("somebody's"),
        ]
    )
    assert found == {own.job: Claim(own.job, least=2, most=9, held=4, waits=False)}


@pytest.mark.parametrize("state", ["PENDING", "PREPARED"])
def test_a_job_that_waits_is_known_to(state: str) -> None:
    own = Claim.new(least=2, most=2)
    found = claims([group(own.least_group, ["a", "b"], state=state)])
    assert found == {own.job: own}


def test_what_went_with_its_node_is_not_held() -> None:
    own = Claim.new(least=2, most=4)
    found = claims([group(own.least_group, ["a", ""], state="RESCHEDULING")])
    assert found == {own.job: Claim(own.job, least=2, most=4, held=1, waits=True)}


def test_later_jobs_sort_after_earlier_ones() -> None:
    jobs = [Claim.new(1, 1).job for _ in range(20)]
    assert jobs == sorted(jobs)
    assert len(set(jobs)) == 20


def running(job: str, least: int, most: int, held: int = 0) -> Claim:
    return Claim(job, least, most, held, waits=False)


@pytest.mark.parametrize(
    ("jobs", "cpus", "shares"),
    [
        ([running("a", 1, 8)], 8, {"a": 8}),
        ([running("a", 1, 8), running("b", 1, 8)], 8, {"a": 4, "b": 4}),
        # Who can use only few leaves the rest to others.
        ([running("a", 1, 8), running("b", 1, 2)], 8, {"a": 6, "b": 2}),
        # What does not divide goes to who came first.
        ([running("a", 1, 8), running("b", 1, 8), running("c", 1, 8)], 8, {"a": 3, "b": 3, "c": 2}),
        # A job keeps what it needs at least, be it more than the others have.
        ([running("a", 6, 8), running("b", 1, 8)], 8, {"a": 6, "b": 2}),
        # The first of those who wait comes first.
        ([running("a", 1, 8), Claim("b", 4, 4), Claim("c", 4, 4)], 8, {"a": 4, "b": 4, "c": 0}),
        # For one that does not fit nobody gives anything back, and the next one may.
        ([running("a", 2, 8), Claim("b", 7, 7), Claim("c", 2, 2)], 8, {"a": 6, "b": 0, "c": 2}),
        # A cluster that has shrunk.
        ([running("a", 4, 8), running("b", 1, 8)], 3, {"a": 4, "b": 1}),
    ],
)
def test_fair_shares(jobs: list[Claim], cpus: int, shares: dict[str, int]) -> None:
    assert max_min_fair(jobs, cpus) == shares
    assert max_min_fair(reversed(jobs), cpus) == shares


@st.composite
def crowds(draw: st.DrawFn) -> list[Claim]:
    def claim(job: str) -> Claim:
        least = draw(st.integers(1, 6))
        return Claim(job, least, draw(st.integers(least, 12)), 0, draw(st.booleans()))

    return [claim(job) for job in "abcdef"[: draw(st.integers(1, 6))]]


@given(crowds(), st.integers(0, 40))
def test_shares_are_fair(jobs: list[Claim], cpus: int) -> None:
    shares = max_min_fair(jobs, cpus)
    needed = sum(claim.least for claim in jobs if not claim.waits)
    assert sum(shares.values()) <= max(cpus, needed)
    for claim in jobs:
        assert shares[claim.job] in range(claim.least, claim.most + 1) or (
            claim.waits and not shares[claim.job]
        )
    # Nothing is left over that somebody who computes could use.
    computing = [claim for claim in jobs if shares[claim.job]]
    if any(shares[claim.job] < claim.most for claim in computing):
        assert sum(shares.values()) >= cpus
    # Nobody has two more than another who would take more, but for what he needs at least.
    for claim in computing:
        for other in computing:
            if shares[claim.job] > claim.least and shares[other.job] < other.most:
                assert shares[claim.job] <= shares[other.job] + 1


def table(*jobs: Claim) -> dict[str, Claim]:
    return {claim.job: claim for claim in jobs}


def test_alone_a_job_may_ask_for_all_it_can_use() -> None:
    own = running("a", 1, 8, held=2)
    assert share_of(own, table(own), free=2) == 8


def test_where_another_is_short_it_has_its_share() -> None:
    own, other = running("a", 1, 8, held=8), Claim("b", 1, 8)
    assert share_of(own, table(own, other), free=0) == 4


def test_what_is_free_counts_for_all() -> None:
    own, other = running("a", 1, 8, held=5), Claim("b", 4, 4)
    assert share_of(own, table(own, other), free=3) == 4


def test_others_of_whom_nobody_is_short_may_ask_for_more() -> None:
    own, other = running("a", 1, 8, held=4), running("b", 1, 8, held=4)
    assert share_of(own, table(own, other), free=0) == 8


def test_for_one_that_cannot_be_helped_nothing_is_given_back() -> None:
    own, other = running("a", 2, 8, held=8), Claim("b", 7, 7)
    assert share_of(own, table(own, other), free=0) == 8


def test_a_job_that_the_cluster_does_not_know_yet() -> None:
    own, other = running("a", 1, 8), running("b", 1, 8, held=8)
    assert share_of(own, table(other), free=0) == 8


@given(st.dictionaries(st.integers(0, 9), st.integers(1, 5), max_size=8), st.integers(0, 20))
def test_who_leaves_gives_back_enough_and_hardly_more(lanes: dict[int, int], excess: int) -> None:
    left = choose_workers_to_release(lanes, excess)
    given_back = sum(lanes[worker] for worker in left)
    assert len(set(left)) == len(left)
    assert given_back >= min(excess, sum(lanes.values()))
    # Without any one of them it would not be enough.
    assert all(given_back - lanes[worker] < excess for worker in left)


def test_jobs_come_to_shares_by_steps_of_their_own() -> None:
    """Each looks at the same table and changes only what is its own; in the end all is even."""
    held = {"a": 8, "b": 0, "c": 0}
    seen: list[dict[str, int]] = []
    for _ in range(6):
        for job, own in held.items():
            now = table(*(Claim(j, 1, 8, n, waits=not n) for j, n in held.items()))
            share = share_of(now[job], now, 8 - sum(held.values()))
            held[job] = min(share, own + 8 - sum(held.values()))
        seen.append(dict(held))
    assert seen[-1] == {"a": 3, "b": 3, "c": 2}
    assert all(before == after for before, after in pairwise(seen[2:]))
