"""How much memory there is, asked before it is used: too much ends a process without a word."""

import os
from pathlib import Path

import numpy as np

from jobs.errors import DataError, SpecError
from model.network import Network

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
#: Of a micro-shard's activations, for forward and backward.
_ACTIVATION_COPIES = 3


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


def expect_room_for_rows(held: int, file: str, *, free: int) -> None:
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
            f"its rows take more than {in_gib(held)}, and this machine has {in_gib(free)} "
            "of memory free",
            file=file,
            hint="all rows have to fit into memory twice, once as read and once scaled",
        )


def expect_room_for_network(network: Network, shard_rows: int) -> None:
    """Raise unless a network can be trained in this machine's memory.

    Args:
        network: Which.
        shard_rows: Rows of its largest micro-shard.

    Raises:
        SpecError: It does not fit.
    """
    widths = sum(inputs + outputs for inputs, outputs in network.layout.widths)
    activations = _ACTIVATION_COPIES * shard_rows * widths
    numbers = _PARAMETER_COPIES * network.layout.size + activations
    needed, free = numbers * np.dtype(network.dtype).itemsize, available_bytes()
    if needed > free:
        raise SpecError(
            f"training {network.layout.size:,} parameters with micro-shards of {shard_rows:,} "
            f"rows needs about {in_gib(needed)}, and this machine has {in_gib(free)} of memory "
            "free",
            place="model.layers",
            hint="fewer units, or a smaller cluster.shard_rows",
        )


def in_gib(size: int) -> str:
    """Bytes for a person.

    >>> in_gib(5 << 29)
    '2.5 GiB'
    """
    return f"{size / (1 << 30):,.1f} GiB"
