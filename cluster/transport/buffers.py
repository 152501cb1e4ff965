"""The memory that the driver shares with the workers of its machine."""

import os
from typing import Any

from numpy.typing import DTypeLike, NDArray

from sumgrad.cluster.transport import shared_memory
from sumgrad.cluster.transport.connection import Connection
from sumgrad.cluster.transport.messages import Welcome
from sumgrad.model.validation import Array

#: Vectors of parameters: three of a run, and one to copy parameters to that are not shared. The
#: operating system provides the memory of a vector when it is written to first.
NUM_VECTORS = 4


class SharedBufferPool:
    """The driver's vectors and the table of `ClaimTable`, mapped by the workers of its machine."""

    def __init__(self, size: int, dtype: str, max_workers: int) -> None:
        self.size, self.dtype = size, dtype
        self._descriptors: list[int] = []
        self.arrays: list[Array] = []  #: The vectors, (size,) each, by their indices.
        self._free = list(range(NUM_VECTORS))  #: Indices of vectors that are not in use.
        try:
            self.claims = self._create((max_workers, 2), "int64")
            self.arrays += (self._create((size,), dtype) for _ in range(NUM_VECTORS))
        except BaseException:
            self.close()
            raise

    def _create(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        descriptor, array = shared_memory.create(shape, dtype)
        self._descriptors.append(descriptor)
        return array

    def acquire(self, like: Array) -> Array:
        """Return an unused vector as a copy of this one."""
        vector = self.arrays[self._free.pop()]
        vector[...] = like
        return vector

    def index(self, vector: Array) -> int | None:
        """Return the index of a vector of this pool, or None for another array."""
        return next((index for index, own in enumerate(self.arrays) if own is vector), None)

    def release(self, vector: Array) -> None:
        """Make a vector of this pool available again; other arrays are ignored."""
        index = self.index(vector)
        # A vector that is released twice must not be acquired twice.
        if index is not None and index not in self._free:
            self._free.append(index)

    def welcome(self, connection: Connection) -> None:
        """Reply to a new worker, with the shared memory if it is on this machine."""
        descriptors = self._descriptors if connection.is_local else []
        connection.send(Welcome(len(self.claims), len(self.arrays)), descriptors)

    def close(self) -> None:
        """Close the descriptors; arrays stay valid while they are referenced."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self.arrays, self._descriptors, self._free = [], [], []
