"""Anonymous memory shared by processes of one machine.

The memory is a file without a name, passed on by its descriptor. The operating system frees it with
the last process that maps it, however that process ends.
"""

import mmap
import os
import tempfile
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sumgrad.cluster.errors import ClusterError
from sumgrad.cluster.transport.connection import Connection


def create(shape: tuple[int, ...], dtype: DTypeLike) -> tuple[int, NDArray[Any]]:
    """Return the descriptor, which the caller closes, and the array of new, zeroed memory."""
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
            f"cannot allocate {size:,} bytes of shared memory: {error.strerror}",
            hint="use fewer workers, or a machine with more memory",
        ) from error


def attach_received(
    connection: Connection, shape: tuple[int, ...], dtype: DTypeLike
) -> NDArray[Any]:
    """Map the shared memory whose descriptor came with the last message."""
    descriptor = connection.pop_descriptor()
    try:
        return attach(descriptor, shape, dtype)
    finally:
        os.close(descriptor)


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
