"""The cells of a comparison: networks, batch sizes, and the data that all contenders share."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

#: Rows of data, shuffled in each epoch.
ROWS = 16_384
FEATURES = 784
CLASSES = 10
ETA = 0.01


@dataclass(frozen=True)
class Cell:
    """One cell of a comparison."""

    #: Units of the hidden ReLU layers, between 784 features and a softmax over 10.
    hidden: tuple[int, ...]
    batch: int  #: Rows of a step over all workers.

    @property
    def widths(self) -> tuple[int, ...]:
        """Return the widths of all layers, features and classes included."""
        return (FEATURES, *self.hidden, CLASSES)

    @property
    def network(self) -> str:
        """Return the widths as text, such as ``784-128-10``."""
        return "-".join(map(str, self.widths))

    @property
    def parameters(self) -> int:
        """Return the number of weights and biases."""
        return sum((before + 1) * after for before, after in pairwise(self.widths))


NETWORKS = ((128,), (256, 256), (1024, 1024))
BATCHES = (64, 512, 4096)


@lru_cache(maxsize=1)
def data() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return random x, (ROWS, 784) in [0, 1), and classes, (ROWS,), of the size of MNIST."""
    generator = np.random.Generator(np.random.Philox(7))
    x = generator.random((ROWS, FEATURES), dtype=np.float32)
    return x, generator.integers(0, CLASSES, ROWS)
