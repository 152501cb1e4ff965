"""The data source: the only thing that cluster/ knows of data."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sumgrad.cluster.planning.plan import RowIndices
from sumgrad.model.validation import Array


class DataSource(Protocol):
    """Rows that a worker can read by index.

    The driver sends a source to each worker once. A source may hold the rows or know where to read
    them.
    """

    def read(self, rows: RowIndices, out: Array | None = None) -> tuple[Array, NDArray[np.generic]]:
        """Return the inputs (B, D_0), C-contiguous, and desired outputs (B, …) of some rows.

        ``out`` (B, D_0) is memory that the source may return the inputs in. It saves an allocation
        and is still in the core's cache.
        """


@dataclass(frozen=True)
class ArraySource:
    """Rows in memory, x (N, D_0) and d (N, …); on one node, Ray's workers share a single copy."""

    x: Array
    d: NDArray[np.generic]

    def read(self, rows: RowIndices, out: Array | None = None) -> tuple[Array, NDArray[np.generic]]:
        """Return a view for a slice, a copy for an index array."""
        x, d = self.x, self.d[rows]
        if isinstance(rows, slice) or out is None:
            return x[rows], d
        if out.dtype != x.dtype or out.shape != (len(rows), *x.shape[1:]):
            return x[rows], d
        if not (x.flags.c_contiguous and x.flags.aligned):
            # `take` would copy all of x first.
            out[...] = x[rows]
            return out, d
        # In any other mode NumPy writes to a temporary first; self.d[rows] has checked the bounds.
        return np.take(x, rows, axis=0, out=out, mode="clip"), d
