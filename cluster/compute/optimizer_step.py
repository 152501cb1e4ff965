"""The update of the weights, chunk by chunk, with the optimizer's own equation for every chunk.

Optimizers treat each parameter separately, so chunks and threads change no bit, and a step
allocates nothing of the parameters' size.
"""

import math
import os

import numpy as np

from sumgrad.cluster.compute.chunks import ChunkedVector
from sumgrad.model.optimizers import Optimizer, State
from sumgrad.model.validation import Array


class ChunkedOptimizer:
    """The optimizer's equation, such as ``W ← W − (η/T)·S``, for W of this size."""

    def __init__(self, optimizer: Optimizer, size: int) -> None:
        self._optimizer = optimizer
        self._chunks = ChunkedVector(size, os.cpu_count() or 1)

    def step(self, W: Array, S: Array, T: int, state: State, eta: float, out: Array) -> float:
        """Write the next weights to ``out`` and the next state into the state's arrays.

        The arguments are those of `Optimizer.update`, but the state's arrays of W's shape, (N,),
        are written to, and its others are replaced.

        Returns:
            ‖S‖; not finite if an element of S is not, or if it exceeds the range of float64.
        """
        long = {name for name, array in state.items() if array.shape == W.shape}

        def update(chunk: slice) -> tuple[float, State]:
            own = {name: array[chunk] if name in long else array for name, array in state.items()}
            _, after = self._optimizer.update(W[chunk], S[chunk], T, own, eta, out=out[chunk])
            for name in long:
                own[name][...] = after[name]
            return _squared_norm(S[chunk]), after

        results = self._chunks.map(update)
        _, after = results[0]
        state.update({name: array for name, array in after.items() if name not in long})
        return self._norm(S, [squared for squared, _ in results])

    def _norm(self, S: Array, squared: list[float]) -> float:
        """Return ‖S‖, given the squared norms of its chunks."""
        try:
            norm = math.sqrt(math.fsum(squared))
        except OverflowError:
            norm = math.inf
        if math.isfinite(norm):
            return norm
        largest = float(np.max(np.abs(S)))
        if not math.isfinite(largest):
            return largest
        # In float64 squares overflow long before the elements do.
        scaled = self._chunks.map(lambda chunk: _squared_norm(S[chunk] / largest))
        return largest * math.sqrt(math.fsum(scaled))

    def close(self) -> None:
        """End the threads."""
        self._chunks.close()


def _squared_norm(S: Array) -> float:
    """Return ‖S‖²; for float32 it is finite if every element is."""
    squared = float(np.dot(S, S))
    if math.isfinite(squared):
        return squared
    # In float64 the square of a float32 cannot overflow.
    return float(np.sum(np.square(S, dtype=np.float64)))
