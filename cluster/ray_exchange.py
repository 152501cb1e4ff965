"""Gradient workers as Ray actors: Ray places, starts and watches them."""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.channel import Address
from cluster.crew import LOOK_S, CrewRules
from cluster.errors import ClusterError, ClusterUnreachable
from cluster.process_exchange import ProcessExchange
from cluster.ray_session import is_own_instance
from cluster.serving import ServingWorker
from cluster.worker import Workload
from model.errors import SumgradError

#: CPUs that were just given back may take so long to be free again, in seconds.
_SETTLE_S = 2.0


@dataclass(frozen=True)
class Place:
    """Where a worker's process goes.

    Attributes:
        lanes: Threads that compute in it.
        bundle: Its bundle of the placement group; None for one that goes where there is room.
        is_far: On another node than the driver.
    """

    lanes: int = 1
    bundle: int | None = 0
    is_far: bool = False


class Reservation:
    """CPUs for the workers, and which processes make use of them.

    On the driver's node each worker has a process of its own. Those on another node are threads of
    one process, so that their sums are added before they travel. An instance of our own has the
    CPUs that were asked for, and nobody else to use them.

    Args:
        workers: CPUs; where others use some of them, fewer, but not fewer than the least.
        rules: The least, how long to wait for them, and whom to tell.

    Raises:
        ClusterUnreachable: The cluster does not give so many in time, or it is time to stop.
    """

    def __init__(self, workers: int, rules: CrewRules) -> None:
        self.group: PlacementGroup | None = None
        self.places = [Place()] * workers
        #: Of the places, how many are for workers who come when there is room.
        self.extra = 0
        #: Whether there may be workers on other nodes.
        self.has_others = _nodes() > 1 or rules.extra > 0
        if is_own_instance() and not self.has_others:
            return
        wanted = max(min(rules.least, workers), _free_cpus(workers, rules.is_stopping))
        self.group = placement_group([{"CPU": 1}] * wanted, strategy="PACK")
        try:
            self._await(self.group, wanted, rules)
        except BaseException:
            self.close()
            raise
        if wanted < workers:
            rules.note(
                f"{wanted} of {workers} CPUs are free: begins with {wanted} workers, and more join "
                "when there is room"
            )
        table = placement_group_table(self.group)
        own = ray.get_runtime_context().get_node_id()
        self.places = places(table["bundles_to_node_id"], own)
        self.extra = workers - wanted + rules.extra
        self.places += [Place(bundle=None)] * self.extra
        # Who comes later may come on a node that is not there yet.
        self.has_others = self.has_others or self.extra > 0

    def _await(self, group: PlacementGroup, workers: int, rules: CrewRules) -> None:
        deadline = time.monotonic() + rules.wait_s
        told = ""
        while not group.wait(LOOK_S):
            if rules.is_stopping():
                raise ClusterUnreachable(f"stopped while waiting for {workers} free CPUs")
            total = _cpus(ray.cluster_resources())  # type: ignore[no-untyped-call]  # Ray's
            what = f"waiting for {workers} free CPUs: the cluster has {total} in all"
            if what != told:
                free = _cpus(ray.available_resources())  # type: ignore[no-untyped-call]
                rules.note(f"{what}, {free} of them free; {_at_most(rules.wait_s)}")
                told = what
            if time.monotonic() > deadline:
                raise ClusterUnreachable(
                    f"the cluster had no {workers} CPUs free within {rules.wait_s:.0f} s",
                    hint="ask for fewer workers (cluster.workers) or look at 'ray status'",
                )

    def has_room(self, worker: int) -> bool:
        """Whether a worker's CPU is there: not while its node is gone, and no other has been found.

        Of workers that come when there is room it is not known.
        """
        bundle = self.places[worker].bundle
        if self.group is None or bundle is None:
            return self.group is None
        return bool(placement_group_table(self.group)["bundles_to_node_id"].get(bundle))

    def close(self) -> None:
        """Give the CPUs back."""
        if self.group is not None:
            remove_placement_group(self.group)
        self.group = None


def places(nodes: Mapping[int, str], own: str) -> list[Place]:
    """Processes for bundles of one CPU each.

    >>> for place in places({0: "a", 1: "b", 2: "b"}, own="a"):
    ...     print(place)
    Place(lanes=1, bundle=0, is_far=False)
    Place(lanes=2, bundle=1, is_far=True)

    Args:
        nodes: The node of each bundle.
        own: The driver's node.
    """
    near = [Place(bundle=bundle) for bundle, node in sorted(nodes.items()) if node == own]
    far = [
        Place(lanes=len(bundles), bundle=bundles[0], is_far=True)
        for node in sorted(set(nodes.values()) - {own})
        if (bundles := sorted(bundle for bundle, at in nodes.items() if at == node))
    ]
    return near + far


class RayLauncher:
    """Starts each worker's process as an actor.

    Args:
        workload: Network, rows and plans; the rows go into the object store, once.
        reservation: Where; given back when the launcher is closed.
        env_vars: Environment of the workers' processes, where they do not inherit this one's.

    Raises:
        ClusterError: The rows do not fit into the object store.
    """

    def __init__(
        self,
        workload: Workload,
        reservation: Reservation,
        env_vars: Mapping[str, str] | None = None,
    ) -> None:
        self._workload = _put(workload, "the rows")
        self._reservation = reservation
        self._env_vars = {"env_vars": dict(env_vars)} if env_vars else None
        # Ray gives actor methods their `remote` at run time, which no type tells.
        self._actors: dict[int, Any] = {}
        self._serving: dict[int, Any] = {}

    def start(self, worker: int, address: Address, secret: bytes) -> None:
        """See `Launcher.start`."""
        # One that no longer serves may still hold the place's CPU.
        self.end(worker)
        place = self._reservation.places[worker]
        actor: Any = self._actor_class(place).remote(worker, self._workload, place.lanes)
        if place.is_far:
            address = replace(address, local=None)
        self._actors[worker] = actor
        self._serving[worker] = actor.serve.remote(address, secret)

    def _actor_class(self, place: Place) -> Any:
        strategy: Any = "DEFAULT"
        if self._reservation.group is not None and place.bundle is not None:
            strategy = PlacementGroupSchedulingStrategy(
                self._reservation.group, placement_group_bundle_index=place.bundle
            )
        return ray.remote(ServingWorker).options(
            num_cpus=1, max_restarts=0, runtime_env=self._env_vars, scheduling_strategy=strategy
        )

    def ended(self, worker: int) -> str | None:
        """See `Launcher.ended`."""
        serving = self._serving[worker]
        try:
            ready, _ = ray.wait([serving], timeout=0)
            if not ready:
                return None
            ray.get(serving)
        except RayTaskError as error:
            return str(error.cause) if isinstance(error.cause, SumgradError) else repr(error.cause)
        except RayError as error:
            return _cause(error)
        return "it stopped serving"

    def end(self, worker: int) -> None:
        """See `Launcher.end`."""
        if worker in self._actors:
            # Ray may know that it is gone.
            with contextlib.suppress(RayError):
                ray.kill(self._actors.pop(worker))

    def close(self) -> None:
        """See `Launcher.close`."""
        try:
            for worker in list(self._actors):
                self.end(worker)
        finally:
            self._reservation.close()


class RayExchange(ProcessExchange):
    """Gradient workers on the Ray cluster that this process is connected to.

    Args:
        workload: Network, rows and plans; the rows go into the object store, once.
        workers: How many to start with, each with one CPU.
        env_vars: Environment of the workers' processes, where they do not inherit this one's.
        rules: How few there may be, and who may join.

    Raises:
        ClusterUnreachable: The workers did not start in time.
        FingerprintMismatch: A worker's arithmetic is not this process's.
    """

    def __init__(
        self,
        workload: Workload,
        workers: int,
        *,
        env_vars: Mapping[str, str] | None = None,
        rules: CrewRules = CrewRules(),  # noqa: B008 - it is frozen
    ) -> None:
        reservation = Reservation(workers, rules)
        try:
            # Only where there may be other nodes is a port opened to them.
            host = _own_address() if reservation.has_others else None
            super().__init__(
                workload,
                [place.lanes for place in reservation.places if place.bundle is not None],
                RayLauncher(workload, reservation, env_vars),
                replace(
                    rules,
                    host=host,
                    extra=reservation.extra,
                    pends=lambda worker: not reservation.has_room(worker),
                ),
            )
        except BaseException:
            reservation.close()
            raise


def _own_address() -> str:
    """This machine's address as its neighbours know it."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]  # Ray's


def _free_cpus(wanted: int, is_stopping: Callable[[], bool]) -> int:
    """CPUs that nobody uses, at most as many as wanted; it waits a moment for them."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        free = _cpus(ray.available_resources())  # type: ignore[no-untyped-call]
        if free >= wanted or time.monotonic() > deadline or is_stopping():
            return min(free, wanted)
        time.sleep(0.1)


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
    nodes = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's
    return sum(node["Alive"] for node in nodes)


def _put(value: object, what: str) -> "ray.ObjectRef[Any]":
    """Put something into Ray's object store.

    Raises:
        ClusterError: It does not fit.
    """
    try:
        return ray.put(value)
    except RayError as error:
        raise ClusterError(
            f"{what} do not fit into Ray's object store: {_cause(error)}",
            hint="give the machine more shared memory, or use fewer rows",
        ) from error


def _cause(error: RayError) -> str:
    """Of Ray's many lines the one that says why: the last for an exception, else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if "raised" in lines[0] else lines[0]
