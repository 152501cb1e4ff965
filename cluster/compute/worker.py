"""The gradient worker: sums per-instance gradients over its microbatches.

A plain class: the process reducer runs it in worker processes, the inline reducer in threads.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sumgrad.cluster.compute.fingerprint import pin_blas
from sumgrad.cluster.errors import ClusterError, MicrobatchFailed
from sumgrad.cluster.planning.data_source import DataSource
from sumgrad.cluster.planning.plan import Plan, StepPlan
from sumgrad.cluster.planning.reduction import Node, PartialSum, TreeReduction
from sumgrad.model.network import Network
from sumgrad.model.parameters import Parameters
from sumgrad.model.validation import Array

#: Seconds to search for the row that made a microbatch fail. The driver sees no progress during
#: the search and would take a worker that searched longer for hung.
_SEARCH_S = 1.0

Batch = tuple[Array, NDArray[np.generic]]  #: Inputs and desired outputs of some rows.


@dataclass(frozen=True)
class Task:
    """A request for one sum: its kind, data source, epoch and step."""

    kind: Literal["gradient", "evaluation"]  #: An evaluation computes forward only.
    source: str
    epoch: int = 1
    step: int = 0  #: Within the epoch, from 0.

    def next_step(self, steps_per_epoch: int) -> "Task":
        """Return the task of the following step."""
        if self.step + 1 < steps_per_epoch:
            return replace(self, step=self.step + 1)
        return replace(self, epoch=self.epoch + 1, step=0)

    def __str__(self) -> str:
        if self.kind == "evaluation":
            return f"evaluating the {self.source} rows"
        return f"summing gradients in epoch {self.epoch}, step {self.step + 1} of the epoch"


@dataclass(frozen=True)
class Workload:
    """The network, the data sources by name, and their plans; each worker receives them once."""

    network: Network
    sources: Mapping[str, DataSource]
    plans: Mapping[str, Plan]

    def plan(self, task: Task) -> StepPlan:
        """Return the plan of a task's step; the plan of an evaluation must have one step."""
        plan = self.plans[task.source]
        if task.kind == "evaluation" and plan.batch_size is not None:
            raise ValueError(f"cannot evaluate '{task.source}': its plan has a batch size")
        return plan.step(task.epoch, task.step)


class GradientBuffers:
    """A worker's gradient vectors, reused; `allocate` returns a new one, (N,), by its index."""

    def __init__(self, network: Network, allocate: Callable[[int], Array] | None = None) -> None:
        self._network = network
        self._allocate = allocate or (lambda _: np.empty(network.layout.size, network.dtype))
        self._buffers: list[Parameters] = []
        self._free: list[Parameters] = []  #: Free buffers, the last used at the end: it is cached.

    def acquire(self) -> Parameters:
        """Return a free buffer."""
        if self._free:
            return self._free.pop()
        buffer = self._network.parameters(self._allocate(len(self._buffers)))
        self._buffers.append(buffer)
        return buffer

    def index_of(self, flat: Array) -> int:
        """Return the index of a buffer."""
        return next(i for i, buffer in enumerate(self._buffers) if buffer.flat is flat)

    def release(self, flat: Array) -> None:
        """Make a buffer free."""
        self._free.append(self._buffers[self.index_of(flat)])

    def release_all(self) -> None:
        """Make all buffers free."""
        self._free = self._buffers[::-1]


class GradientWorker:
    """A worker that computes microbatches, each by one call, and reduces them in the tree."""

    def __init__(
        self, index: int, workload: Workload, allocate: Callable[[int], Array] | None = None
    ) -> None:
        pin_blas()
        network = workload.network
        self.index = index
        self.workload = workload
        self.buffers = GradientBuffers(network, allocate)
        self._prefetched: tuple[Task, int, Batch] | None = None
        max_rows = max(plan.microbatch_size for plan in workload.plans.values())
        self._cache = network.cache(max_rows, in_place=True)
        #: Memory for the inputs of the microbatch that is computed or prefetched.
        self._x = np.empty((max_rows, network.inputs), network.dtype)

    def compute(self, task: Task, microbatches: Iterable[int], flat: Array) -> list[Node]:
        """Return the sums over some microbatches as the maximal nodes of the step's tree.

        The nodes' gradients are the worker's buffers, valid until these are released. Any error is
        raised as `MicrobatchFailed`, which names the microbatch, the cause and the failing row.
        """
        plan = self.workload.plan(task)
        parameters = self.workload.network.parameters(flat)
        tree = TreeReduction(plan.num_microbatches, add=self._add)
        # The driver checks the sum for overflow, because it can name the step and the cause.
        with np.errstate(all="ignore"):
            for index in microbatches:
                try:
                    total = self._sum(task, *self._read(task, plan, index), parameters)
                except Exception as error:
                    cause = f"{type(error).__name__}: {error}"
                    rows = self._find_failing_row(error, task, plan.row_indices(index), parameters)
                    what = range(index, index + 1), str(task), cause, task.source, rows
                    raise MicrobatchFailed(self.index, *what) from error
                tree.add(Node(0, index, total))
        return tree.nodes()

    def _add(self, left: Array, right: Array) -> Array:
        np.add(left, right, out=left)
        self.buffers.release(right)
        return left

    def _sum(
        self, task: Task, x: Array, d: NDArray[np.generic], parameters: Parameters
    ) -> PartialSum:
        network = self.workload.network
        cache = self._cache.narrow(len(x))
        if task.kind == "evaluation":
            seen = network.evaluation_sum(parameters, x, d, cache=cache)
            return PartialSum(None, seen.divergence, seen.correct, seen.count)
        out = self.buffers.acquire()
        summed = network.gradient_sum(parameters, x, d, out=out, cache=cache)
        return PartialSum(out.flat, summed.divergence, 0, summed.count)

    def _find_failing_row(
        self, error: Exception, task: Task, rows: list[int], parameters: Parameters
    ) -> list[int]:
        """Return the first row that raises when it is computed alone.

        All rows if none is found within `_SEARCH_S`; no rows for an error of the cluster, such as
        missing memory for a buffer.
        """
        if isinstance(error, ClusterError):
            return []
        source = self.workload.sources[task.source]
        deadline = time.monotonic() + _SEARCH_S
        for row in rows:
            if time.monotonic() > deadline:
                break
            try:
                alone = self._sum(task, *source.read(np.array([row])), parameters)
            except ClusterError:
                break
            except Exception:  # noqa: BLE001 - any error identifies the row
                return [row]
            if alone.gradient is not None:
                self.buffers.release(alone.gradient)
        return rows

    def _read(self, task: Task, plan: StepPlan, index: int) -> Batch:
        if self._prefetched is not None:
            *key, batch = self._prefetched
            self._prefetched = None
            if key == [task, index]:
                return batch
        rows = plan.microbatch(index)
        out = None if isinstance(rows, slice) else self._x[: len(rows)]
        return self.workload.sources[task.source].read(rows, out)

    def prefetch(self, task: Task, index: int) -> None:
        """Read the rows of a microbatch that is likely to be next."""
        plan = self.workload.plan(task)
        if index < plan.num_microbatches:
            # An error recurs when the microbatch is computed.
            with contextlib.suppress(Exception):
                self._prefetched = (task, index, self._read(task, plan, index))
