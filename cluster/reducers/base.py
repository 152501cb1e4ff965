"""The interface between the driver and the workers: parameters go out, one sum comes back.

A reducer decides how work is spread and how numbers travel. The plan and the tree decide the
result, so every reducer returns the same bits.
"""

from abc import ABC, abstractmethod
from typing import Self

from sumgrad.cluster.compute.worker import Task
from sumgrad.cluster.planning.reduction import PartialSum
from sumgrad.model.validation import Array


class GradientReducer(ABC):
    """An interface that computes the sum of a task over all of its instances."""

    @property
    @abstractmethod
    def num_threads(self) -> int:
        """The number of threads that compute, each on one CPU."""

    def shared_copy(self, like: Array) -> Array:
        """Return a copy of parameters, (N,), in memory that the workers read fastest."""
        return like.copy()

    def release(self, vector: Array) -> None:  # noqa: B027 - only shared memory is reused
        """Release a vector of `shared_copy` for reuse."""

    @abstractmethod
    def reduce(self, task: Task, flat: Array) -> PartialSum:
        """Return the sum over every instance of the task; the next call may overwrite it.

        ``flat`` are parameters, (N,), preferably from `shared_copy`; they are not changed.

        Raises:
            ClusterUnreachable: There were too few workers for too long.
            MicrobatchFailed: Several workers failed on the same microbatch.
            CountMismatch: Not every instance was counted exactly once.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the workers and the memory."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
