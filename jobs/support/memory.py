"""Check free memory before it is used: the kernel kills a process that uses too much."""

import errno
import os
import re
import stat
from pathlib import Path

import numpy as np
import psutil

from sumgrad.jobs.errors import DataError, SpecError
from sumgrad.model.network import Network

_CGROUP = Path("/sys/fs/cgroup")
#: A container's limit and its use, for both versions of cgroups.
_CONTAINER_MEMORY = (
    (_CGROUP / "memory.max", _CGROUP / "memory.current"),
    (_CGROUP / "memory/memory.limit_in_bytes", _CGROUP / "memory/memory.usage_in_bytes"),
)
#: Copies of the parameters in the driver: three of the weights, a gradient for each half of the
#: reduction tree, the optimizer's state, and a checkpoint that is being written.
_PARAMETER_COPIES = 8
_ACTIVATION_COPIES = 3  #: Copies of a microbatch's activations in a forward and backward pass.
_NAME_BYTES = 80  #: Size of a feature's name as a Python object, with its entry in a tuple.


def available_bytes() -> int:
    """Return the memory that this process can use without swapping."""
    limits = [_available_on_machine()]
    for limit, used in _CONTAINER_MEMORY:
        try:
            limits.append(int(limit.read_text()) - _used_bytes(used))
        except (OSError, ValueError):
            continue  # This version of cgroups is not in use, or sets no limit.
    return max(0, min(limits))


def _used_bytes(used: Path) -> int:
    """Return a container's use, without the cached files that the kernel drops on demand."""
    cached = re.findall(r"inactive_file (\d+)", used.with_name("memory.stat").read_text())
    # Version 1 lists the container's own cache and the total, which the use includes.
    return int(used.read_text()) - max(map(int, cached), default=0)


def _available_on_machine() -> int:
    return int(psutil.virtual_memory().available)


def check_memory_for_rows(size: int, file: str, *, free: int | None = None) -> None:
    """Raise `DataError` if rows of this number of bytes do not fit twice: as read, and scaled.

    ``free`` is the memory that was free before the file was read; by default what is free now.
    """
    free = available_bytes() if free is None else free
    if size > free // 2:
        problem = f"its rows take more than {_gib(size)}, and {_has_free(free)}"
        hint = "all rows have to fit into memory twice, once as read and once scaled"
        raise DataError(problem, file=file, hint=hint)


def check_memory_for_names(count: int, file: str) -> None:
    """Raise `DataError` if the names of this number of features do not fit into memory."""
    needed, free = count * _NAME_BYTES, available_bytes()
    if needed > free // 2:
        problem = f"the names of its {count:,} features take {_gib(needed)}, and {_has_free(free)}"
        raise DataError(problem, file=file)


def check_memory_for_file(path: Path, *, max_bytes: int | None = None, times: int = 2) -> None:
    """Raise unless a file can be read whole. Only its size is read.

    A sparse file counts with its full size. Each of its bytes needs memory for this number of
    ``times``; arrays exist twice, as read and as used.

    Raises:
        OSError: The file does not exist, is not a regular file, is larger than it can be, or does
            not fit into memory. ``strerror`` holds the cause and ``filename`` the file.
    """
    status = path.stat()
    _check_regular(status, path)
    size, free = status.st_size, available_bytes()
    if max_bytes is not None and size > max_bytes:
        raise OSError(errno.EFBIG, f"has {size:,} bytes, expected at most {max_bytes:,}", str(path))
    if times * size > free:
        raise OSError(errno.ENOMEM, f"has {_gib(size)}, and {_has_free(free)}", str(path))


def read_small_file(path: Path, max_bytes: int) -> bytes:
    """Return a file's content; raise OSError if it is missing, not regular, or too large."""
    # Without O_NONBLOCK, opening a pipe blocks until another process writes into it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _check_regular(os.fstat(descriptor), path)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(max_bytes + 1)
    finally:
        os.close(descriptor)
    if len(content) > max_bytes:
        limit = f"{max_bytes >> 20} MiB" if max_bytes >= 1 << 20 else f"{max_bytes:,} bytes"
        raise OSError(errno.EFBIG, f"larger than {limit}", str(path))
    return content


def _check_regular(status: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def check_memory_for_network(network: Network, microbatch_size: int) -> None:
    """Raise `SpecError` unless this machine has the memory to train a network."""
    widths = sum(inputs + outputs for inputs, outputs in network.layout.widths)
    activations = _ACTIVATION_COPIES * microbatch_size * widths
    numbers = _PARAMETER_COPIES * network.layout.size + activations
    needed, free = numbers * np.dtype(network.dtype).itemsize, available_bytes()
    if needed > free:
        raise SpecError(
            f"training {network.layout.size:,} parameters with microbatches of "
            f"{microbatch_size:,} rows needs about {_gib(needed)}, and {_has_free(free)}",
            key="model.layers",
            hint="use fewer units, or a smaller cluster.microbatch_size",
        )


def _has_free(free: int) -> str:
    return f"this machine has {_gib(free)} of memory free"


def _gib(size: int) -> str:
    return f"{size / (1 << 30):,.1f} GiB"
