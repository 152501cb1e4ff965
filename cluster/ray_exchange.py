"""Gradient workers as Ray actors: Ray places, starts and watches them."""

from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from cluster.channel import Address
from cluster.errors import ClusterError
from cluster.process_exchange import ProcessExchange
from cluster.serving import ServingWorker
from cluster.worker import Workload
from model.errors import SumgradError


class RayLauncher:
    """Starts each worker as an actor with one CPU.

    Args:
        workload: Network, rows and plans; the rows go into the object store, once.
        env_vars: Environment of the workers' processes, where they do not inherit this one's.

    Raises:
        ClusterError: The rows do not fit into the object store.
    """

    def __init__(self, workload: Workload, env_vars: Mapping[str, str] | None = None) -> None:
        self._workload = _put(workload, "the rows")
        self._actor_class = ray.remote(ServingWorker).options(
            num_cpus=1,
            max_restarts=0,
            runtime_env={"env_vars": dict(env_vars)} if env_vars else None,
        )
        # Ray gives actor methods their `remote` at run time, which no type tells.
        self._actors: dict[int, Any] = {}
        self._serving: dict[int, Any] = {}

    def start(self, worker: int, address: Address, secret: bytes) -> None:
        """See `Launcher.start`."""
        actor: Any = self._actor_class.remote(worker, self._workload)
        self._actors[worker] = actor
        self._serving[worker] = actor.serve.remote(address, secret)

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
        # Only where there are other machines is a port opened to them.
        host = _own_address() if _machines() > 1 else None
        super().__init__(workload, workers, RayLauncher(workload, env_vars), host=host)


def _own_address() -> str:
    """This machine's address as its neighbours know it."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]  # Ray's


def _machines() -> int:
    """How many machines the cluster has."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's
    return len({node["NodeManagerAddress"] for node in nodes if node["Alive"]})


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
