"""The driver's vectors, in memory that it shares with the workers of its machine."""

import os
from collections.abc import Callable

from sumgrad.cluster.transport import memfd as memory
from sumgrad.model.validation import Array


class SharedBufferPool:
    """Vectors by their numbers; those that were given back are given out again.

    Args:
        size: Numbers in each.
        dtype: Of them.
        tell: Told of each new one: its number and its descriptor.

    Attributes:
        descriptors: Of the vectors, by their numbers.
        arrays: The vectors themselves.
    """

    def __init__(self, size: int, dtype: str, tell: Callable[[int, int], None]) -> None:
        self.descriptors: list[int] = []
        self.arrays: list[Array] = []
        self._size, self._dtype = size, dtype
        self._tell = tell
        #: Numbers of vectors that were given back.
        self._free: list[int] = []

    def take(self, like: Array) -> Array:
        """A vector that nobody uses, as a copy of this one."""
        number = self._free.pop() if self._free else self._new()
        vector = self.arrays[number]
        vector[...] = like
        return vector

    def _new(self) -> int:
        descriptor, vector = memory.create((self._size,), self._dtype)
        self.descriptors.append(descriptor)
        self.arrays.append(vector)
        number = len(self.arrays) - 1
        self._tell(number, descriptor)
        return number

    def number(self, vector: Array) -> int | None:
        """The number of a vector of ours; None for another."""
        for number, own in enumerate(self.arrays):
            if own is vector:
                return number
        return None

    def give_back(self, vector: Array) -> None:
        """Let it be given out again; another than ours is nobody's business here."""
        number = self.number(vector)
        # Given out twice, it would be two vectors to whoever writes to them.
        if number is not None and number not in self._free:
            self._free.append(number)

    def close(self) -> None:
        """Close the descriptors; arrays stay as long as somebody has them."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors, self.arrays, self._free = [], [], []
