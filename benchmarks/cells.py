"""What is measured: a network, a batch, and the same data for every contender."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

#: Rows of data; steps take batches of them, reshuffled in each epoch.
ROWS = 16_384
FEATURES = 784
CLASSES = 10
ETA = 0.01


@dataclass(frozen=True)
class Cell:
    """One comparison.

    Attributes:
        hidden: Units of the hidden layers, all ReLU; 784 features before, softmax over 10 after.
        batch: Rows of a step, over all workers.
    """

    hidden: tuple[int, ...]
    batch: int

    @property
    def widths(self) -> tuple[int, ...]:
        """From the features to the classes."""
        return (FEATURES, *self.hidden, CLASSES)

    @property
    def network(self) -> str:
        """As in ``784-128-10``."""
        return "-".join(map(str, self.widths))

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return sum((before + 1) * after for before, after in pairwise(self.widths))


NETWORKS = ((128,), (256, 256), (1024, 1024))
BATCHES = (64, 512, 4096)


@lru_cache(maxsize=1)
def data() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(ROWS, 784) numbers from 0 to 1, and (ROWS,) classes: digits in size, if not in shape."""
    generator = np.random.Generator(np.random.Philox(7))
    x = generator.random((ROWS, FEATURES), dtype=np.float32)
    return x, generator.integers(0, CLASSES, ROWS)
