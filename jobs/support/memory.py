"""How much memory there is, asked before it is used: too much ends a process without a word."""

import errno
import os
import stat
from pathlib import Path

import numpy as np

from sumgrad.jobs.errors import DataError, SpecError
from sumgrad.model.network import Network

_MEMORY_OF_MACHINE = Path("/proc/meminfo")
#: A container's limit and use, by version of cgroups.
_MEMORY_OF_CONTAINER = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
#: Of the parameters' size, in the driver's process: the weights three times, a gradient for each
#: half of the tree, what the optimiser remembers, and a checkpoint that is being written.
_PARAMETER_COPIES = 8
#: Of a microbatch's activations, for forward and backward.
_ACTIVATION_COPIES = 3
#: Of a feature's name as Python holds it: a short text, and its place in a tuple.
_NAME_BYTES = 80


def available_bytes() -> int:
    """Memory that this process may still use without others being pushed out."""
    limits = [_available_on_machine()]
    for limit, used in _MEMORY_OF_CONTAINER:
        try:
            limits.append(int(limit.read_text()) - int(used.read_text()))
        except (OSError, ValueError):
            continue  # No such version here, or no limit.
    return max(0, min(limits))


def _available_on_machine() -> int:
    try:
        for line in _MEMORY_OF_MACHINE.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_memory_for_rows(held: int, file: str, *, free: int) -> None:
    """Raise if a file has turned out to be larger than memory.

    Args:
        held: Bytes read so far, or promised.
        file: For the message.
        free: What `available_bytes` said before.

    Raises:
        DataError: Rows and their scaled copy do not fit.
    """
    if held > free // 2:
        raise DataError(
            f"its rows take more than {format_gib(held)}, and this machine has {format_gib(free)} "
            "of memory free",
            file=file,
            hint="all rows have to fit into memory twice, once as read and once scaled",
        )


def check_memory_for_names(count: int, file: str) -> None:
    """Raise if names for so many features would fill memory; a pixel of one byte has one of 80.

    Args:
        count: How many names are about to be made.
        file: For the message.

    Raises:
        DataError: They do not fit.
    """
    needed, free = count * _NAME_BYTES, available_bytes()
    if needed > free // 2:
        raise DataError(
            f"the names of its {count:,} features take {format_gib(needed)}, and this machine has "
            f"{format_gib(free)} of memory free",
            file=file,
        )


def check_memory_for_file(path: Path, *, max_bytes: int | None = None, times: int = 2) -> None:
    """Raise unless a file can be read whole: its size is asked, and nothing of it is read.

    It is an `OSError`, so that whoever reads files need not expect one more kind; its ``strerror``
    is the cause, its ``filename`` the file.

    Args:
        path: The file. A sparse one takes no room on a disk, and all of its size in memory.
        max_bytes: Bytes that it has if it is what it should be; None where nobody knows.
        times: How many times its size what is made of it takes: arrays are there twice, once as
            read and once as used.

    Raises:
        OSError: There is no such file; or it is a folder, a device or a pipe; or it is larger than
            it should be; or memory has no room for it.
    """
    found = path.stat()
    _expect_regular(found, path)
    size, free = found.st_size, available_bytes()
    if max_bytes is not None and size > max_bytes:
        raise OSError(errno.EFBIG, f"has {size:,} bytes, expected at most {max_bytes:,}", str(path))
    if times * size > free:
        raise OSError(
            errno.ENOMEM,
            f"has {format_gib(size)}, and this machine has {format_gib(free)} of memory free",
            str(path),
        )


def read_small_file(path: Path, max_bytes: int) -> bytes:
    """The content of a file that is small if it is what it should be.

    No more is read than that, also where a size says nothing, and no pipe is waited for.

    Args:
        path: The file.
        max_bytes: Bytes that it may have.

    Raises:
        OSError: There is no such file; or it is a folder, a device or a pipe; or it is larger.
    """
    # Without O_NONBLOCK, opening a pipe waits until somebody writes into it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _expect_regular(os.fstat(descriptor), path)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(max_bytes + 1)
    finally:
        os.close(descriptor)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"larger than {_in_units(max_bytes)}", str(path))
    return content


def _expect_regular(found: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def _in_units(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size:,} bytes"


def check_memory_for_network(network: Network, microbatch_size: int) -> None:
    """Raise unless a network can be trained in this machine's memory.

    Args:
        network: Which.
        microbatch_size: Rows of its largest microbatch.

    Raises:
        SpecError: It does not fit.
    """
    widths = sum(inputs + outputs for inputs, outputs in network.layout.widths)
    activations = _ACTIVATION_COPIES * microbatch_size * widths
    numbers = _PARAMETER_COPIES * network.layout.size + activations
    needed, free = numbers * np.dtype(network.dtype).itemsize, available_bytes()
    if needed > free:
        raise SpecError(
            f"training {network.layout.size:,} parameters with microbatches of {microbatch_size:,} "
            f"rows needs about {format_gib(needed)}, and this machine has {format_gib(free)} "
            "of free memory",
            key="model.layers",
            hint="fewer units, or a smaller cluster.microbatch_size",
        )


def format_gib(size: int) -> str:
    """Bytes for a person.

    >>> format_gib(5 << 29)
    '2.5 GiB'
    """
    return f"{size / (1 << 30):,.1f} GiB"
