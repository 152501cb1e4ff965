"""Memory that processes of one machine share, without a name that could outlive them.

The memory is a file that has no place in any folder; whoever is to map it is sent its descriptor.
It is gone with the last process that holds it, however that one ends.
"""

import mmap
import os
import tempfile
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sumgrad.cluster.errors import ClusterError


def create(shape: tuple[int, ...], dtype: DTypeLike) -> tuple[int, NDArray[Any]]:
    """New shared memory, all zero.

    Returns:
        A descriptor, to be closed by the caller, and the array.

    Raises:
        ClusterError: The machine has no room for it.
    """
    size = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
    try:
        descriptor = _anonymous_file()
        try:
            os.ftruncate(descriptor, size)
            return descriptor, attach(descriptor, shape, dtype)
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise ClusterError(
            f"no {size:,} bytes of shared memory to be had: {error.strerror}",
            hint="use fewer workers, or a machine with more memory",
        ) from error


def attach(descriptor: int, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Map shared memory that was created with this shape and dtype; the descriptor stays open."""
    mapped = mmap.mmap(descriptor, 0)
    count = int(np.prod(shape))
    return np.frombuffer(mapped, dtype=dtype, count=count).reshape(shape)


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("sumgrad")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
