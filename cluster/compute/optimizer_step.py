"""The update of the weights, block by block, with the optimiser's own equation for every block.

Optimisers treat each parameter by itself, so neither the cut nor the threads change a bit, and
nothing of the parameters' size is allocated.
"""

import math
import os

import numpy as np

from sumgrad.cluster.compute.chunks import ChunkedVector
from sumgrad.model.optimizers import Optimizer, State
from sumgrad.model.validation import Array


class ChunkedOptimizer:
    """``W ← W − (η/T)·∇Loss``, or what the optimiser makes of it.

    Args:
        optimizer: Its equation.
        size: Parameters.
    """

    def __init__(self, optimizer: Optimizer, size: int) -> None:
        self._optimizer = optimizer
        self._blocks = ChunkedVector(size, os.cpu_count() or 1)

    def step(self, W: Array, S: Array, T: int, state: State, eta: float, out: Array) -> float:
        """Write the next weights to ``out``, and the next state into the state's arrays.

        Args:
            W: Parameters, (N,); not changed.
            S: Sum of the per-instance gradients, (N,); not changed.
            T: Instances in the sum.
            state: The optimiser's; its arrays of W's shape are written to, others replaced.
            eta: The learning rate η of this step.
            out: The next weights, (N,), apart from W.

        Returns:
            ‖S‖; not a finite number if one of S is none, or if no float64 is large enough.
        """
        long = {name for name, array in state.items() if array.shape == W.shape}

        def update(block: slice) -> tuple[float, State]:
            own = {name: array[block] if name in long else array for name, array in state.items()}
            next_weights = out[block]
            _, after = self._optimizer.update(W[block], S[block], T, own, eta, out=next_weights)
            for name in long:
                own[name][...] = after[name]
            return _squared_norm(S[block]), after

        results = self._blocks.map(update)
        _, after = results[0]
        state.update({name: array for name, array in after.items() if name not in long})
        return self._norm(S, [squared for squared, _ in results])

    def _norm(self, S: Array, squared: list[float]) -> float:
        """‖S‖, given the squared norms of its blocks."""
        try:
            quick = math.sqrt(math.fsum(squared))
        except OverflowError:
            quick = math.inf
        if math.isfinite(quick):
            return quick
        most = float(np.max(np.abs(S)))
        if not math.isfinite(most):
            return most
        # In float64 squares overflow long before the numbers do.
        return most * math.sqrt(
            math.fsum(self._blocks.map(lambda block: _squared_norm(S[block] / most)))
        )

    def close(self) -> None:
        """End the threads."""
        self._blocks.close()


def _squared_norm(S: Array) -> float:
    """‖S‖²; of float32 infinite or not a number only where S is."""
    quick = float(np.dot(S, S))
    if math.isfinite(quick):
        return quick
    # In float64 the square of a float32 cannot overflow.
    return float(np.sum(np.square(S, dtype=np.float64)))
