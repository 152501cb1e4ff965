"""Where workers get their rows from: the only thing that cluster/ knows of data."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sumgrad.cluster.planning.plan import RowIndices
from sumgrad.model.validation import Array


class DataSource(Protocol):
    """Rows that a worker can fetch by their numbers.

    A source is sent to each worker once; one that holds no rows itself but knows how to read them
    fits as well.
    """

    @property
    def rows(self) -> int:
        """How many instances there are."""

    def read(self, rows: RowIndices, out: Array | None = None) -> tuple[Array, NDArray[np.generic]]:
        """Inputs (B, D_0), C-contiguous, and desired outputs (B, …) of these rows.

        Args:
            rows: Their numbers.
            out: (B, D_0), where the inputs may be written, if that suits: it saves allocating
                them, and is still in the core's cache.
        """


@dataclass(frozen=True)
class ArraySource:
    """Rows in memory. On a node, Ray's workers share one copy of them.

    Args:
        x: (N, D_0).
        d: (N, …).
    """

    x: Array
    d: NDArray[np.generic]

    @property
    def rows(self) -> int:
        """N."""
        return len(self.x)

    def read(self, rows: RowIndices, out: Array | None = None) -> tuple[Array, NDArray[np.generic]]:
        """A view for a slice, a copy for row numbers."""
        x, d = self.x, self.d[rows]
        if isinstance(rows, slice) or out is None:
            return x[rows], d
        if out.dtype != x.dtype or out.shape != (len(rows), *x.shape[1:]):
            return x[rows], d
        if not (x.flags.c_contiguous and x.flags.aligned):
            # `take` would make a copy of all of x first.
            out[...] = x[rows]
            return out, d
        # By any other mode NumPy would write to a copy first; d has noticed what is out of range.
        return np.take(x, rows, axis=0, out=out, mode="clip"), d
