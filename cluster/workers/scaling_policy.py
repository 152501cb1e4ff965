"""What is asked of a job's workers, and of whoever starts their processes."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sumgrad.cluster.transport.connection import Address

#: How often it is looked after workers, in seconds.
LOOK_S = 1.0


class Launcher(Protocol):
    """Starts the processes of workers and watches them."""

    def start(self, worker: int, address: Address, secret: bytes) -> None:
        """Start a process in which a `WorkerProcess` serves the driver at this address."""

    def exit_reason(self, worker: int) -> str | None:
        """Why a worker's process is no more, or None while it is starting or running."""

    def kill(self, worker: int) -> None:
        """End a worker's process, whatever it is doing."""

    def release(self, worker: int) -> None:
        """End a worker's process, and give back what it ran on."""

    def close(self) -> None:
        """End all processes."""


@dataclass(frozen=True)
class ScalingPolicy:
    """How many workers there are to be, and what to do without them.

    Attributes:
        least: With fewer, work does not go on.
        wait_s: How long it waits for more, in seconds.
        extra: How many more may join when the cluster has room for them.
        host: This machine's address for workers on others; None if there are none.
        note: Takes a line about workers that come and go.
        is_stopping: Asked while waiting; a wait that it ends raises.
        pends: Whether a worker's process has not been started yet for want of room, which is no
            fault of its own.
        is_kept: Whether a worker's place is one of the least; others may be given back.
        failure: Why no worker can come any more, if that is so.
        fits: Whether what a worker runs on is still as it was when it was started.
        share: How many CPUs the job may have now, as others want some too; each thread that
            computes, and so each worker, has one.
    """

    least: int = 1
    wait_s: float = 300.0
    extra: int = 0
    host: str | None = None
    note: Callable[[str], None] = lambda _: None
    is_stopping: Callable[[], bool] = lambda: False
    pends: Callable[[int], bool] = lambda _: False
    is_kept: Callable[[int], bool] = lambda _: True
    failure: Callable[[], str | None] = lambda: None
    fits: Callable[[int], bool] = lambda _: True
    share: Callable[[], int] = lambda: sys.maxsize
