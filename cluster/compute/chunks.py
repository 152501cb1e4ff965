"""Long vectors processed chunk by chunk, on several threads.

Only for operations that treat each element or each chunk separately: the chunks and the threads
then change no bit. A chunk and its operands stay in a core's cache, so that a chain of operations
reads and writes memory once.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from sumgrad.model.validation import Array

T = TypeVar("T")

#: Elements of a chunk: few enough for the operands to stay in the cache, and enough to outweigh
#: Python's overhead. Measured: 32 k took twice as long, more than 128 k gained nothing.
CHUNK_SIZE = 1 << 17
MIN_SIZE_PER_THREAD = 1 << 18  #: The fewest elements per thread that outweigh waking it.


class ChunkedVector:
    """The chunks of vectors of one size, and at most `num_threads` threads that process them."""

    def __init__(self, size: int, num_threads: int = 1) -> None:
        starts = range(0, size, CHUNK_SIZE)
        self._chunks = [slice(start, min(start + CHUNK_SIZE, size)) for start in starts]
        self._num_threads = max(1, min(num_threads, size // MIN_SIZE_PER_THREAD))
        self._pool = ThreadPoolExecutor(self._num_threads - 1) if self._num_threads > 1 else None

    def map(self, function: Callable[[slice], T]) -> list[T]:
        """Return the function's results for every chunk, in the order of the chunks."""

        def map_part(part: list[slice]) -> list[T]:
            # NumPy's error state belongs to a thread. The driver checks the result for overflow.
            with np.errstate(all="ignore"):
                return [function(chunk) for chunk in part]

        if self._pool is None:
            return map_part(self._chunks)
        share = -(-len(self._chunks) // self._num_threads)
        parts = [self._chunks[i : i + share] for i in range(0, len(self._chunks), share)]
        others = [self._pool.submit(map_part, part) for part in parts[1:]]
        results = map_part(parts[0])
        for other in others:
            results += other.result()
        return results

    def add_pairs(self, pairs: Sequence[tuple[Array, Array]]) -> None:
        """Compute ``left += right`` for each pair of vectors, in the order given."""

        def add(chunk: slice) -> None:
            for left, right in pairs:
                np.add(left[chunk], right[chunk], out=left[chunk])

        if pairs:
            self.map(add)

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
