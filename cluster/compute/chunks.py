"""Long vectors, worked on block by block and on several threads.

Only for what treats every element by itself, or each block by itself: then neither the cut nor the
threads change a bit. A block and its operands stay in a core's cache, so that a chain of operations
reads and writes memory once.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

T = TypeVar("T")

#: Numbers in a block: few enough for an operation's operands to stay in the cache, and enough to
#: outweigh what Python needs for a block. Measured: 32 k took twice as long, more gained nothing.
CHUNK_SIZE = 1 << 17
#: Fewer numbers than these are not worth waking a thread for.
MIN_WORK_FOR_THREADS = 1 << 18


class ChunkedVector:
    """The blocks of a vector's length.

    Args:
        size: Numbers in a vector.
        threads: How many may work at a time.
    """

    def __init__(self, size: int, threads: int = 1) -> None:
        self._slices = [
            slice(start, min(start + CHUNK_SIZE, size)) for start in range(0, size, CHUNK_SIZE)
        ]
        self._threads = max(1, min(threads, size // MIN_WORK_FOR_THREADS))
        self._pool = ThreadPoolExecutor(self._threads - 1) if self._threads > 1 else None

    def map(self, work: Callable[[slice], T]) -> list[T]:
        """Do some work on every block.

        Returns:
            What it gave, in the order of the blocks.
        """

        def run_part(part: list[slice]) -> list[T]:
            # What overflows is noticed in the result; the setting is each thread's own.
            with np.errstate(all="ignore"):
                return [work(block) for block in part]

        if self._pool is None:
            return run_part(self._slices)
        share = -(-len(self._slices) // self._threads)
        parts = [self._slices[i : i + share] for i in range(0, len(self._slices), share)]

        others = [self._pool.submit(run_part, part) for part in parts[1:]]
        results = run_part(parts[0])
        for other in others:
            results += other.result()
        return results

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
