"""Gradient workers as Ray actors; parameters through the object store, sums as results.

This is the plain way of moving numbers. Ray places, starts and watches the workers.
"""

from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from cluster.errors import ClusterError, ClusterUnreachable, WorkerLost
from cluster.exchange import Exchange
from cluster.fingerprint import expect_same, take_fingerprint
from cluster.plan import assign
from cluster.tree import PartialSum, TreeSum
from cluster.worker import GradientWorker, Task, Workload
from model.checks import Array
from model.errors import SumgradError

#: How long workers may take to start before it is told that they do not, in seconds.
START_DEADLINE_S = 60.0


class RayExchange(Exchange):
    """A fixed set of gradient workers on the Ray cluster that this process is connected to.

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
        self.workers = workers
        self._workload = workload
        actor = ray.remote(GradientWorker).options(
            num_cpus=1,
            max_restarts=0,
            runtime_env={"env_vars": dict(env_vars)} if env_vars else None,
        )
        shared = _put(workload, "the rows")
        # Ray gives actor methods their `remote` at run time, which no type tells.
        self._actors: list[Any] = [actor.remote(index, shared) for index in range(workers)]
        self._expect_fingerprints()

    def _expect_fingerprints(self) -> None:
        ours = take_fingerprint()
        asked = {actor.fingerprint.remote(): i for i, actor in enumerate(self._actors)}
        ready, missing = ray.wait(
            list(asked), num_returns=len(asked), timeout=START_DEADLINE_S, fetch_local=True
        )
        if missing:
            raise ClusterUnreachable(
                f"{len(missing)} of {self.workers} workers did not start "
                f"within {START_DEADLINE_S:.0f} s",
                hint="ask for fewer workers (cluster.workers) or look at 'ray status'",
            )
        for ref in ready:
            expect_same(ours, _answer(ref, asked[ref], "starting"), asked[ref])

    def total(self, task: Task, flat: Array) -> PartialSum:
        """See `Exchange.total`."""
        plan = self._workload.plan(task)
        parameters = _put(flat, "the parameters")
        pending = {
            actor.compute.remote(task, shards, parameters): worker
            for worker, (actor, shards) in enumerate(
                zip(self._actors, assign(plan.shards, self.workers), strict=True)
            )
            if shards
        }
        tree = TreeSum(plan.shards)
        while pending:
            done, _ = ray.wait(list(pending), num_returns=1)
            worker = pending.pop(done[0])
            for node in _answer(done[0], worker, str(task)):
                tree.add(node)
        return tree.root(plan.rows)

    def close(self) -> None:
        """End the workers' processes."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []


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


def _answer(ref: Any, worker: int, doing: str) -> Any:
    """A worker's result, with Ray's errors told in our own words."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, SumgradError):
            raise error.cause from None
        raise ClusterError(f"worker {worker} failed while {doing}: {error.cause!r}") from error
    except RayActorError as error:
        raise WorkerLost(worker, doing, hint=_cause(error)) from None
    except RayError as error:
        raise ClusterError(f"worker {worker}, while {doing}: {_cause(error)}") from error


def _cause(error: RayError) -> str:
    """Of Ray's many lines the one that says why: the last for an exception, else the first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if "raised" in lines[0] else lines[0]
