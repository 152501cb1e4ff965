"""Open descriptors of this process."""

from pathlib import Path


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
