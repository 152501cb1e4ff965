"""Gradient workers as Ray actors: Ray places, starts and watches them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.channel import Address
from cluster.errors import ClusterError, ClusterUnreachable
from cluster.process_exchange import START_DEADLINE_S, ProcessExchange
from cluster.serving import ServingWorker
from cluster.worker import Workload
from model.errors import SumgradError


@dataclass(frozen=True)
class Place:
    """Where a worker's process goes.

    Attributes:
        lanes: Threads that compute in it.
        bundle: Its bundle of the placement group, where there is one.
        is_far: On another node than the driver.
    """

    lanes: int = 1
    bundle: int = 0
    is_far: bool = False


class Reservation:
    """CPUs for the workers, and which processes make use of them.

    On the driver's node each worker has a process of its own. Those on another node are threads of
    one process, so that their sums are added before they travel.

    Args:
        workers: CPUs.

    Raises:
        ClusterUnreachable: The cluster does not give so many in time.
    """

    def __init__(self, workers: int) -> None:
        self.places = [Place()] * workers
        self.group: PlacementGroup | None = None
        self.has_others = _nodes() > 1
        if not self.has_others:
            return
        self.group = placement_group([{"CPU": 1}] * workers, strategy="PACK")
        if not self.group.wait(START_DEADLINE_S):
            self.close()
            raise ClusterUnreachable(
                f"the cluster had no {workers} CPUs free within {START_DEADLINE_S:.0f} s",
                hint="ask for fewer workers (cluster.workers) or look at 'ray status'",
            )
        table = placement_group_table(self.group)
        self.places = places(table["bundles_to_node_id"], ray.get_runtime_context().get_node_id())

    def close(self) -> None:
        """Give the CPUs back."""
        if self.group is not None:
            remove_placement_group(self.group)


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
        place = self._reservation.places[worker]
        actor: Any = self._actor_class(place).remote(worker, self._workload, place.lanes)
        if place.is_far:
            address = replace(address, local=None)
        self._actors[worker] = actor
        self._serving[worker] = actor.serve.remote(address, secret)

    def _actor_class(self, place: Place) -> Any:
        strategy: Any = "DEFAULT"
        if self._reservation.group is not None:
            strategy = PlacementGroupSchedulingStrategy(
                self._reservation.group, placement_group_bundle_index=place.bundle
            )
        return ray.remote(ServingWorker).options(
            num_cpus=1, max_restarts=0, runtime_env=self._env_vars, scheduling_strategy=strategy
        )

    def ended(self, worker: int) -> str | None:
        """See `Launcher.ended`."""
        serving = self._serving[worker]
        ready, _ = ray.wait([serving], timeout=0)
        if not ready:
            return None
        try:
            ray.get(serving)
        except RayTaskError as error:
            if isinstance(error.cause, SumgradError):
                raise error.cause from None
            return repr(error.cause)
        except RayActorError as error:
            return _cause(error)
        return "it stopped serving"

    def close(self) -> None:
        """See `Launcher.close`."""
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors = {}
        self._reservation.close()


class RayExchange(ProcessExchange):
    """Gradient workers on the Ray cluster that this process is connected to.

    Args:
        workload: Network, rows and plans; the rows go into the object store, once.
        workers: How many actors, each with one CPU.
        env_vars: Environment of the workers' processes, where they do not inherit this one's.

    Raises:
        ClusterUnreachable: The workers did not start in time.
        FingerprintMismatch: A worker's arithmetic is not this process's.
    """

    def __init__(
        self, workload: Workload, workers: int, *, env_vars: Mapping[str, str] | None = None
    ) -> None:
        reservation = Reservation(workers)
        super().__init__(
            workload,
            [place.lanes for place in reservation.places],
            RayLauncher(workload, reservation, env_vars),
            # Only where there are other nodes is a port opened to them.
            host=_own_address() if reservation.has_others else None,
        )


def _own_address() -> str:
    """This machine's address as its neighbours know it."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]  # Ray's


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
