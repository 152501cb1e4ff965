"""Interfaces of backends: start and end worker processes, grant and release their CPUs."""

from abc import ABC, abstractmethod

from sumgrad.cluster.transport.handshake import Address


class Launcher(ABC):
    """A backend that starts, watches and ends worker processes."""

    @abstractmethod
    def start(self, worker: int, address: Address, secret: bytes) -> None:
        """Start a process in which a `WorkerProcess` serves the driver at this address."""

    @abstractmethod
    def exit_reason(self, worker: int) -> str | None:
        """Return why a worker's process has ended, or None while it is starting or running."""

    @abstractmethod
    def kill(self, worker: int) -> None:
        """End a worker's process at once."""

    @abstractmethod
    def close(self) -> None:
        """End all processes."""

    def backend_failure(self, *, starting: bool) -> str | None:
        """Return why no worker can start any more, or None; `starting` before all have started."""
        return None


class Placement:
    """The CPUs of a job's workers; by default one for each, none of which come or go."""

    def __init__(self, initial_workers: int, extra_cpus: int = 0, host: str | None = None) -> None:
        self.initial_workers = initial_workers
        self.extra_cpus = extra_cpus
        self.host = host  #: This machine's address for workers on other machines.

    def is_required(self, worker: int) -> bool:
        """Return whether a worker is part of the minimum, which is never released."""
        return True

    def has_cpus(self, worker: int) -> bool:
        """Return whether a worker's CPUs are granted and their node is alive."""
        return True

    def has_moved(self, worker: int) -> bool:
        """Return whether a worker's CPUs are no longer those that its process was started for."""
        return False

    def cpu_share(self) -> int:
        """Return how many CPUs the job may use now; every thread that computes uses one."""
        return self.initial_workers + self.extra_cpus

    def release(self, worker: int) -> None:
        """Release the CPUs of a worker whose process has ended."""

    def close(self) -> None:
        """Release all CPUs."""
