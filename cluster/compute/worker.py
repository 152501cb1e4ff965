"""The gradient worker: sums per-instance gradients over its microbatches.

A plain class: `workers.worker_process` runs it in a separate process, `inline` calls it directly.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sumgrad.cluster.compute.fingerprint import Fingerprint, compute_fingerprint
from sumgrad.cluster.errors import ClusterError, MicrobatchFailed
from sumgrad.cluster.planning.data_source import DataSource
from sumgrad.cluster.planning.plan import Plan, StepPlan
from sumgrad.cluster.planning.reduction import Node, PartialSum, TreeReduction
from sumgrad.model.network import Network
from sumgrad.model.parameters import Parameters
from sumgrad.model.validation import Array

#: So long it is looked for the row that is to blame for a failure, in seconds. Meanwhile the driver
#: sees no progress, and would take the worker for frozen in the end.
_LOOK_FOR_BLAME_S = 1.0

#: Inputs and desired outputs of some rows.
Batch = tuple[Array, NDArray[np.generic]]


@dataclass(frozen=True)
class Task:
    """What to sum, small enough to travel with every step.

    Args:
        kind: ``gradient``, or ``evaluation``: forward only.
        source: Name of the source of rows.
        epoch: From 1.
        step: Within the epoch, from 0.
    """

    kind: Literal["gradient", "evaluation"]
    source: str
    epoch: int = 1
    step: int = 0

    def next_step(self, steps_per_epoch: int) -> "Task":
        """The step after this one, if training goes on as it does."""
        if self.step + 1 < steps_per_epoch:
            return replace(self, step=self.step + 1)
        return replace(self, epoch=self.epoch + 1, step=0)

    def __str__(self) -> str:
        if self.kind == "evaluation":
            return f"evaluating the {self.source} rows"
        return f"summing gradients in epoch {self.epoch}, step {self.step + 1} of the epoch"


@dataclass(frozen=True)
class Workload:
    """What every worker is given once.

    Args:
        network: Whose gradients.
        sources: Rows by name.
        plans: The plan over each source.
    """

    network: Network
    sources: Mapping[str, DataSource]
    plans: Mapping[str, Plan]

    def plan(self, task: Task) -> StepPlan:
        """The step plan that a task stands for.

        Raises:
            ValueError: An evaluation is of all rows, and the source's plan has steps of some.
        """
        plan = self.plans[task.source]
        if task.kind == "evaluation" and plan.batch_size is not None:
            raise ValueError(
                f"the plan of '{task.source}' is not one for evaluations: it has steps"
            )
        return plan.step(task.epoch, task.step)


class Vectors:
    """Gradient vectors of a worker, used again from step to step.

    Args:
        network: Whose gradients.
        make: Makes a new vector, (N,); given its number.
    """

    def __init__(self, network: Network, make: Callable[[int], Array] | None = None) -> None:
        self._network = network
        self._make = make or (lambda _: np.empty(network.layout.size, dtype=network.dtype))
        self._all: list[Parameters] = []
        self._numbers: dict[int, int] = {}
        #: Numbers of those that hold nothing; the one used last comes first, still in the cache.
        self._free: list[int] = []

    def take(self) -> Parameters:
        """A vector to write to."""
        if not self._free:
            number = len(self._all)
            vector = self._network.parameters(self._make(number))
            self._all.append(vector)
            self._numbers[id(vector.flat)] = number
            return vector
        return self._all[self._free.pop()]

    def number(self, flat: Array) -> int:
        """The number of one of these vectors."""
        return self._numbers[id(flat)]

    def give_back(self, flat: Array) -> None:
        """A vector holds nothing any more."""
        self._free.append(self.number(flat))

    def release_all(self) -> None:
        """No vector holds anything any more."""
        self._free = list(range(len(self._all) - 1, -1, -1))


class GradientWorker:
    """Computes microbatches, each by one call of fixed shape, and adds them up in the tree.

    Args:
        index: The worker's number, for messages.
        workload: Network, rows and plans.
        make_vector: See `Vectors`.
    """

    def __init__(
        self,
        index: int,
        workload: Workload,
        make_vector: Callable[[int], Array] | None = None,
    ) -> None:
        self.index = index
        self.workload = workload
        self.vectors = Vectors(workload.network, make_vector)
        self._fingerprint = compute_fingerprint()
        #: Rows that were fetched ahead, and what for.
        self._ahead: tuple[Task, int, Batch] | None = None
        most = max(plan.microbatch_size for plan in workload.plans.values())
        self._cache = workload.network.cache(most, in_place=True)
        #: The inputs of the microbatch that is computed, or that was fetched ahead.
        self._x = np.empty((most, workload.network.inputs), workload.network.dtype)

    def fingerprint(self) -> Fingerprint:
        """This process's arithmetic."""
        return self._fingerprint

    def compute(self, task: Task, shards: Iterable[int], flat: Array) -> list[Node]:
        """Sums over these microbatches.

        Args:
            task: The step.
            shards: Indices of its microbatches.
            flat: Parameters, (N,).

        Returns:
            The largest nodes of the step's tree that these microbatches make. Their vectors are
            the worker's, and hold the sums until it is told to give them back.

        Raises:
            MicrobatchFailed: Names the microbatch whose computation raised, and why.
        """
        plan = self.workload.plan(task)
        parameters = self.workload.network.parameters(flat)
        tree = TreeReduction(plan.num_microbatches, add=self._add)
        # What overflows is noticed in the sum, by the driver, which can say where and why.
        with np.errstate(all="ignore"):
            for shard in shards:
                try:
                    total = self._sum_shard(task, plan, shard, parameters)
                except Exception as error:
                    cause = f"{type(error).__name__}: {error}"
                    rows = self._to_blame(error, task, plan.row_numbers(shard), parameters)
                    doing = str(task)
                    raise MicrobatchFailed(
                        self.index, shard, doing, cause, task.source, rows
                    ) from error
                tree.add(Node(0, shard, total))
        return tree.nodes()

    def _add(self, left: Array, right: Array) -> Array:
        np.add(left, right, out=left)
        self.vectors.give_back(right)
        return left

    def _sum_shard(
        self, task: Task, plan: StepPlan, shard: int, parameters: Parameters
    ) -> PartialSum:
        x, d = self._fetch(task, plan, shard)
        return self._sum(task, x, d, parameters)

    def _sum(
        self, task: Task, x: Array, d: NDArray[np.generic], parameters: Parameters
    ) -> PartialSum:
        network = self.workload.network
        cache = self._cache.narrow(len(x))
        if task.kind == "evaluation":
            seen = network.evaluation_sum(parameters, x, d, cache=cache)
            return PartialSum(None, seen.divergence, seen.correct, seen.count)
        into = self.vectors.take()
        summed = network.gradient_sum(parameters, x, d, out=into, cache=cache)
        return PartialSum(into.flat, summed.divergence, 0, summed.count)

    def _to_blame(
        self, error: Exception, task: Task, rows: list[int], parameters: Parameters
    ) -> list[int]:
        """Of rows whose sum raised, the first that raises by itself.

        Returns:
            All of them if none does, or if it is not found soon; none where it is not about rows.
        """
        if isinstance(error, ClusterError):
            # Such as no memory for a vector.
            return []
        source = self.workload.sources[task.source]
        until = time.monotonic() + _LOOK_FOR_BLAME_S
        for row in rows:
            if time.monotonic() > until:
                break
            try:
                alone = self._sum(task, *source.read(np.array([row])), parameters)
            except ClusterError:
                break
            except Exception:  # noqa: BLE001 - it is the one that was looked for
                return [row]
            if alone.gradient is not None:
                self.vectors.give_back(alone.gradient)
        return rows

    def _fetch(self, task: Task, plan: StepPlan, shard: int) -> Batch:
        if self._ahead is not None:
            wanted, which, batch = self._ahead
            self._ahead = None
            if (wanted, which) == (task, shard):
                return batch
        rows = plan.shard(shard)
        if isinstance(rows, slice):
            return self.workload.sources[task.source].read(rows)
        return self.workload.sources[task.source].read(rows, self._x[: len(rows)])

    def prefetch(self, task: Task, shard: int) -> None:
        """Fetch rows of a microbatch that may well be asked for next, while there is time.

        What fails is told when they are asked for.
        """
        plan = self.workload.plan(task)
        if shard < plan.num_microbatches:
            with contextlib.suppress(Exception):
                self._ahead = (task, shard, self._fetch(task, plan, shard))
