"""Gradient workers as Ray actors: Ray places, starts and watches them."""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from sumgrad.cluster.compute.worker import Workload
from sumgrad.cluster.errors import ClusterError, ClusterUnreachable
from sumgrad.cluster.ray_backend.placement import Placement
from sumgrad.cluster.ray_backend.session import local_instance_failure
from sumgrad.cluster.reducers.process import ProcessReducer
from sumgrad.cluster.transport.connection import Address
from sumgrad.cluster.workers.scaling_policy import ScalingPolicy
from sumgrad.cluster.workers.worker_process import WorkerProcess
from sumgrad.model.errors import SumgradError


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
        reservation: Placement,
        env_vars: Mapping[str, str] | None = None,
    ) -> None:
        self._workload = _put(workload, "the rows")
        self._reservation = reservation
        self._env_vars = {"env_vars": dict(env_vars)} if env_vars else None
        # Ray gives actor methods their `remote` at run time, which no type tells.
        self._actors: dict[int, Any] = {}
        #: What each was asked to do; or why it could not be started.
        self._serving: dict[int, Any] = {}

    def start(self, worker: int, address: Address, secret: bytes) -> None:
        """See `Launcher.start`."""
        # One that no longer serves may still hold the place's CPU.
        self.kill(worker)
        try:
            place = self._reservation.take(worker)
        except RayError as error:
            self._serving[worker] = error
            return
        actor: Any = self._actor_class(worker).remote(worker, self._workload, place.lanes)
        if place.is_remote:
            address = replace(address, local=None)
        self._actors[worker] = actor
        self._serving[worker] = actor.serve.remote(address, secret)

    def _actor_class(self, worker: int) -> Any:
        return ray.remote(WorkerProcess).options(
            num_cpus=1,
            max_restarts=0,
            runtime_env=self._env_vars,
            scheduling_strategy=self._reservation.strategy(worker),
        )

    def exit_reason(self, worker: int) -> str | None:
        """See `Launcher.exit_reason`."""
        serving = self._serving[worker]
        try:
            if isinstance(serving, RayError):
                raise serving
            ready, _ = ray.wait([serving], timeout=0)
            if not ready:
                return None
            ray.get(serving)
        except RayTaskError as error:
            return str(error.cause) if isinstance(error.cause, SumgradError) else repr(error.cause)
        except RayError as error:
            return _cause(error)
        return "it stopped serving"

    def kill(self, worker: int) -> None:
        """See `Launcher.kill`."""
        if worker in self._actors:
            # Ray may know that it is gone.
            with contextlib.suppress(RayError):
                ray.kill(self._actors.pop(worker))

    def release(self, worker: int) -> None:
        """See `Launcher.release`."""
        self.kill(worker)
        self._reservation.give_back(worker)

    def close(self) -> None:
        """See `Launcher.close`."""
        try:
            for worker in list(self._actors):
                self.kill(worker)
        finally:
            self._reservation.close()


class RayReducer(ProcessReducer):
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
        rules: ScalingPolicy = ScalingPolicy(),  # noqa: B008 - it is frozen
    ) -> None:
        try:
            reservation = Placement(workers, rules)
        except RayError as error:
            raise ClusterUnreachable(f"the cluster gives no CPUs: {_cause(error)}") from error
        try:
            # Only where there may be other nodes is a port opened to them.
            host = _own_address() if reservation.has_others else None
            super().__init__(
                workload,
                reservation.first,
                RayLauncher(workload, reservation, env_vars),
                replace(
                    rules,
                    host=host,
                    extra=reservation.extra,
                    pends=lambda worker: not reservation.has_room(worker),
                    is_kept=reservation.is_kept,
                    failure=local_instance_failure,
                    fits=reservation.is_as_taken,
                    share=reservation.share,
                ),
            )
        except BaseException:
            reservation.close()
            raise


def _own_address() -> str:
    """This machine's address as its neighbours know it."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]  # Ray's


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
