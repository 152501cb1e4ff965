"""Worker processes as Ray actors."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from sumgrad.cluster.compute.worker import Workload
from sumgrad.cluster.errors import ClusterError
from sumgrad.cluster.ray_backend.placement import RayPlacement
from sumgrad.cluster.ray_backend.watchdog import DaemonWatch, run_watched
from sumgrad.cluster.transport.handshake import Address
from sumgrad.cluster.workers.launcher import Launcher
from sumgrad.cluster.workers.worker_process import WorkerProcess
from sumgrad.model.errors import SumgradError

T = TypeVar("T")


class RayLauncher(Launcher):
    """A launcher of Ray actors, which read the workload from the object store.

    `watch` is that of a Ray instance which this process has started.
    """

    def __init__(
        self,
        workload: Workload,
        placement: RayPlacement,
        env_vars: Mapping[str, str] | None = None,
        watch: DaemonWatch | None = None,
    ) -> None:
        self._placement = placement
        self._env_vars = {"env_vars": dict(env_vars)} if env_vars else None
        self._watch = watch
        self._has_failed = False  #: Whether Ray does not answer any more.
        self._actors: dict[int, Any] = {}  #: Any, because Ray adds `remote` at run time.
        #: For each worker, the result of its `serve` method, or why it could not be started.
        self._serving: dict[int, Any] = {}
        self._workload = self._put(workload)

    def _put(self, workload: Workload) -> "ray.ObjectRef[Any]":
        try:
            return self._call(lambda: ray.put(workload))
        except RayError as error:
            raise ClusterError(
                f"the rows do not fit into Ray's object store: {error_cause(error)}",
                hint="use a machine with more shared memory, or fewer rows",
            ) from error

    def start(self, worker: int, address: Address, secret: bytes) -> None:
        # A process that no longer serves may still have the CPU.
        self.kill(worker)
        self._call(lambda: self._start(worker, address, secret))

    def _call(self, call: Callable[[], T]) -> T:
        return call() if self._watch is None else run_watched(call, self._watch.failure)

    def _start(self, worker: int, address: Address, secret: bytes) -> None:
        try:
            slot = self._placement.acquire(worker)
        except RayError as error:
            self._serving[worker] = error
            return
        actor_class: Any = ray.remote(WorkerProcess).options(
            num_cpus=1,
            max_restarts=0,
            runtime_env=self._env_vars,
            scheduling_strategy=self._placement.strategy(worker),
        )
        actor = self._actors[worker] = actor_class.remote(worker, self._workload, slot.threads)
        if slot.is_remote:
            address = replace(address, local=None)
        self._serving[worker] = actor.serve.remote(address, secret)

    def exit_reason(self, worker: int) -> str | None:
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
            return error_cause(error)
        return "it stopped serving"

    def kill(self, worker: int) -> None:
        if worker in self._actors and not self._has_failed:
            # Ray may know that it has ended.
            with contextlib.suppress(RayError):
                ray.kill(self._actors.pop(worker))

    def close(self) -> None:
        for worker in list(self._actors):
            self.kill(worker)

    def backend_failure(self, *, starting: bool) -> str | None:
        if self._watch is None:
            return None
        failure = self._watch.failure() if starting else self._watch.exited()
        self._has_failed = failure is not None
        return failure


def error_cause(error: RayError) -> str:
    """Return the line of Ray's message that states the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # An exception's cause is the last line, that of a lost process the first.
    return lines[-1] if "raised" in lines[0] else lines[0]
