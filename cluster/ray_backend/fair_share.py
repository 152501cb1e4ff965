"""Several jobs on one cluster: how many of its CPUs each of them is to have.

A job's claim is in the names of its placement groups, which every job of the cluster can see: one
group with the CPUs that it needs at least, and a group for each CPU more. From them each job finds
out by itself what its share is, and all come to the same. As the bits of a job do not depend on the
number of its workers, one that has more than its share gives some back while it computes.
"""

import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

_NAME = re.compile(
    r"sumgrad-(?P<job>[0-9a-f]+)-(?P<least>\d+)-(?P<most>\d+)-(?P<what>least|more\d+)"
)


@dataclass(frozen=True)
class Claim:
    """What a job of the cluster wants, and has.

    Attributes:
        job: Its name among the cluster's jobs; those that came later sort after it.
        least: CPUs without which it does not compute.
        most: CPUs that it can make use of.
        held: CPUs that it has.
        waits: Whether it does not have the least yet.
    """

    job: str
    least: int
    most: int
    held: int = 0
    waits: bool = True

    @classmethod
    def new(cls, least: int, most: int) -> "Claim":
        """Of a job that comes now."""
        return cls(f"{time.time_ns():016x}{secrets.token_hex(4)}", least, most)

    @property
    def least_group(self) -> str:
        """The name of the placement group with the least."""
        return f"sumgrad-{self.job}-{self.least}-{self.most}-least"

    def owns(self, name: str) -> bool:
        """Whether a placement group of this name is the job's."""
        return name.startswith(f"sumgrad-{self.job}-")

    def more_group(self, number: int) -> str:
        """The name of a placement group with one CPU more; no two may have the same."""
        return f"sumgrad-{self.job}-{self.least}-{self.most}-more{number}"


def claims(groups: Iterable[Mapping[str, Any]]) -> dict[str, Claim]:
    """The claims of a cluster's jobs, by their names.

    Args:
        groups: Ray's placement groups, each with its `name`, its `state`, and by bundle the node
            that it is on in `bundles_to_node_id`; those of others are passed over.
    """
    found: dict[str, Claim] = {}
    for group in groups:
        named = _NAME.fullmatch(group["name"])
        if named is None or group["state"] == "REMOVED":
            continue
        job = named["job"]
        claim = found.setdefault(job, Claim(job, int(named["least"]), int(named["most"])))
        # A group that is being made has nodes already, and they may still be refused.
        is_there = group["state"] in ("CREATED", "RESCHEDULING")
        held = sum(map(bool, group["bundles_to_node_id"].values())) if is_there else 0
        has_least = named["what"] == "least" and group["state"] == "CREATED"
        found[job] = replace(claim, held=claim.held + held, waits=claim.waits and not has_least)
    return found


def max_min_fair(claims: Iterable[Claim], cpus: int) -> dict[str, int]:
    """How many CPUs each job is to have: its least, and of the rest as much as the others.

    Who waits gets its least in the order in which they came; one for whom too little would be left
    although all others gave back what they can gets nothing, and nobody has to give back for it.

    >>> big, small = Claim("a", least=1, most=8, waits=False), Claim("b", least=2, most=2)
    >>> max_min_fair([big, small], cpus=8)
    {'a': 6, 'b': 2}
    >>> max_min_fair([big, Claim("c", least=1, most=8)], cpus=8)
    {'a': 4, 'c': 4}

    Args:
        claims: Of all jobs.
        cpus: That there are for them.
    """
    shares: dict[str, int] = {}
    left = cpus
    ordered = sorted(claims, key=lambda claim: (claim.waits, claim.job))
    for claim in ordered:
        shares[claim.job] = claim.least if claim.least <= left or not claim.waits else 0
        left -= shares[claim.job]
    growing = [claim for claim in ordered if shares[claim.job]]
    while left > 0 and (growing := [claim for claim in growing if shares[claim.job] < claim.most]):
        level = min(shares[claim.job] for claim in growing)
        for claim in growing:
            if shares[claim.job] == level and left > 0:
                shares[claim.job] += 1
                left -= 1
    return shares


def share_of(own: Claim, claims: Mapping[str, Claim], free: int) -> int:
    """How many CPUs a job may have now: its fair share where somebody is short of its own.

    Where nobody is, it may ask for all that it can make use of.

    Args:
        own: The job's claim.
        claims: Of all jobs, as the cluster has them.
        free: CPUs that nobody has.
    """
    cpus = free + sum(claim.held for claim in claims.values())
    shares = max_min_fair(claims.values(), cpus)
    others = [claim for claim in claims.values() if claim.job != own.job]
    if own.job not in shares or all(claim.held >= shares[claim.job] for claim in others):
        return own.most
    return max(own.least, shares[own.job])


def choose_workers_to_release(lanes: Mapping[int, int], excess: int) -> list[int]:
    """Which workers leave so that so many CPUs are given back, or a few more.

    >>> choose_workers_to_release({2: 1, 3: 1, 4: 4}, excess=1)
    [3]
    >>> choose_workers_to_release({2: 1, 3: 1, 4: 4}, excess=5)
    [4, 3]
    >>> choose_workers_to_release({1: 1, 2: 1, 3: 4}, excess=3)
    [3]

    Args:
        lanes: Of each worker that may leave, how many CPUs it has.
        excess: CPUs to give back.
    """
    stay, chosen = dict(lanes), []
    while excess > 0 and stay:
        fitting = [worker for worker in stay if stay[worker] <= excess]
        worker = (
            max(fitting, key=lambda worker: (stay[worker], worker))
            if fitting
            else min(stay, key=lambda worker: (stay[worker], -worker))
        )
        excess -= stay.pop(worker)
        chosen.append(worker)
    for worker in list(chosen):
        # A large one that came last may make smaller ones unnecessary.
        if excess + lanes[worker] <= 0:
            excess += lanes[worker]
            chosen.remove(worker)
    return chosen
