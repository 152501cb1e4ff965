"""How several jobs share a cluster's CPUs.

A job's demand is in the names of its placement groups, which every job of the cluster can list: one
group with its minimum of CPUs, and a group for each further CPU. Each job computes all shares from
them and arrives at the same result. The bits of a job do not depend on its number of workers, so a
job above its share releases CPUs while it computes.
"""

import re
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

_NAME = re.compile(
    r"sumgrad-(?P<job>[0-9a-f]+)-(?P<min>\d+)-(?P<max>\d+)-(?P<kind>required|extra\d+)"
)


@dataclass(frozen=True)
class Demand:
    """The CPUs that a job needs, can use, and has."""

    job: str  #: Its name on the cluster; names of later jobs sort after those of earlier ones.
    min_cpus: int
    max_cpus: int
    allocated: int = 0
    is_waiting: bool = True  #: Whether it does not have its minimum yet.

    @classmethod
    def new(cls, min_cpus: int, max_cpus: int) -> "Demand":
        """Return the demand of a job that starts now."""
        return cls(f"{time.time_ns():016x}{secrets.token_hex(4)}", min_cpus, max_cpus)

    def group_name(self, kind: str) -> str:
        """Return the name of a placement group: ``required``, or ``extra`` and a new number."""
        return f"sumgrad-{self.job}-{self.min_cpus}-{self.max_cpus}-{kind}"


def read_demands(groups: Iterable[Mapping[str, Any]]) -> dict[str, Demand]:
    """Return the demands of a cluster's jobs, by their names, from Ray's placement group table.

    Groups of other programs are ignored.
    """
    demands: dict[str, Demand] = {}
    for group in groups:
        match = _NAME.fullmatch(group["name"])
        if match is None or group["state"] == "REMOVED":
            continue
        job = match["job"]
        demand = demands.setdefault(job, Demand(job, int(match["min"]), int(match["max"])))
        # A group that is being created lists nodes already, which may still refuse it.
        exists = group["state"] in ("CREATED", "RESCHEDULING")
        allocated = sum(map(bool, group["bundles_to_node_id"].values())) if exists else 0
        has_minimum = match["kind"] == "required" and group["state"] == "CREATED"
        demands[job] = replace(
            demand,
            allocated=demand.allocated + allocated,
            is_waiting=demand.is_waiting and not has_minimum,
        )
    return demands


def max_min_fair(demands: Iterable[Demand], cpus: int) -> dict[str, int]:
    """Return each job's share of the CPUs: its minimum, and of the rest as much as the others.

    Waiting jobs get their minimum in the order in which they came. A job gets nothing,
    and the others release nothing for it, if its minimum would not fit even after they had released
    what they can.

    >>> big = Demand("a", min_cpus=1, max_cpus=8, is_waiting=False)
    >>> max_min_fair([big, Demand("b", min_cpus=2, max_cpus=2)], cpus=8)
    {'a': 6, 'b': 2}
    >>> max_min_fair([big, Demand("c", min_cpus=1, max_cpus=8)], cpus=8)
    {'a': 4, 'c': 4}
    """
    shares: dict[str, int] = {}
    left = cpus
    ordered = sorted(demands, key=lambda demand: (demand.is_waiting, demand.job))
    for demand in ordered:
        fits = demand.min_cpus <= left or not demand.is_waiting
        shares[demand.job] = demand.min_cpus if fits else 0
        left -= shares[demand.job]
    growing = [demand for demand in ordered if shares[demand.job]]
    while left > 0 and (growing := [d for d in growing if shares[d.job] < d.max_cpus]):
        level = min(shares[demand.job] for demand in growing)
        for demand in growing:
            if shares[demand.job] == level and left > 0:
                shares[demand.job] += 1
                left -= 1
    return shares


def cpu_share(own: Demand, demands: Mapping[str, Demand], free: int) -> int:
    """Return how many CPUs a job may have now: its fair share if any other job lacks its own.

    Otherwise it may ask for all that it can use. ``free`` CPUs belong to no job.
    """
    cpus = free + sum(demand.allocated for demand in demands.values())
    shares = max_min_fair(demands.values(), cpus)
    others = [demand for demand in demands.values() if demand.job != own.job]
    if own.job not in shares or all(d.allocated >= shares[d.job] for d in others):
        return own.max_cpus
    return max(own.min_cpus, shares[own.job])
