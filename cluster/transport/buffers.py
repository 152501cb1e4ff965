"""The memory that the driver shares with its workers, or whose content it exchanges with them."""

import os

import numpy as np

from sumgrad.cluster.errors import ConnectionClosed
from sumgrad.cluster.transport import shared_memory
from sumgrad.cluster.transport.connection import Connection
from sumgrad.cluster.transport.messages import AttachBuffer, Done, Message, Welcome
from sumgrad.cluster.transport.server import WorkerConnection
from sumgrad.model.validation import Array


class SharedBufferPool:
    """The driver's vectors and the table of `ClaimTable`, mapped by the workers of its machine."""

    def __init__(self, size: int, dtype: str, max_workers: int) -> None:
        self.arrays: list[Array] = []  #: The vectors, (size,) each, by their indices.
        self._size, self._dtype = size, dtype
        self._descriptors: list[int] = []
        self._free: list[int] = []  #: Indices of vectors that were released.
        #: Connections of workers that map the vectors; some may have closed.
        self._subscribers: list[Connection] = []
        self._claims_descriptor, self.claims = shared_memory.create((max_workers, 2), "int64")

    def acquire(self, like: Array) -> Array:
        """Return an unused vector as a copy of this one."""
        index = self._free.pop() if self._free else self._add_vector()
        vector = self.arrays[index]
        vector[...] = like
        return vector

    def _add_vector(self) -> int:
        descriptor, vector = shared_memory.create((self._size,), self._dtype)
        self._descriptors.append(descriptor)
        self.arrays.append(vector)
        index = len(self.arrays) - 1
        for connection in list(self._subscribers):
            try:
                connection.send(AttachBuffer(index), [descriptor])
            except ConnectionClosed:
                self._subscribers.remove(connection)
        return index

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
        """Send a new worker the claim table and the vectors, if it is on this machine."""
        is_local = connection.is_local
        connection.send(Welcome(len(self.claims)), [self._claims_descriptor] if is_local else [])
        if is_local:
            for index, descriptor in enumerate(self._descriptors):
                connection.send(AttachBuffer(index), [descriptor])
            self._subscribers.append(connection)

    def attach(self, worker: WorkerConnection, index: int) -> None:
        """Map a gradient vector that a worker of this machine has announced."""
        vector = shared_memory.attach_received(worker.connection, (self._size,), self._dtype)
        worker.buffers[index] = vector

    def allocate(self, worker: WorkerConnection, message: Message) -> list[Array]:
        """Return the vectors into which the gradients of another machine's message go."""
        if not isinstance(message, Done):
            return []
        indices = [buffer for *_, buffer in message.nodes if buffer is not None]
        for index in indices:
            if index not in worker.buffers:
                worker.buffers[index] = np.empty(self._size, self._dtype)
        return [worker.buffers[index] for index in indices]

    def close(self) -> None:
        """Close the descriptors; arrays stay valid while they are referenced."""
        for descriptor in (self._claims_descriptor, *self._descriptors):
            os.close(descriptor)
        self.arrays, self._descriptors, self._free, self._subscribers = [], [], [], []
