"""Worker processes without Ray: the engine's own behaviour, with processes that a test may kill."""

import multiprocessing as mp
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from multiprocessing.process import BaseProcess

from sumgrad.cluster.compute import threads as lanes_module
from sumgrad.cluster.compute import worker as worker_module
from sumgrad.cluster.compute.fingerprint import compute_fingerprint
from sumgrad.cluster.compute.worker import Workload
from sumgrad.cluster.transport.connection import Address
from sumgrad.cluster.transport.messages import Hello, Message
from sumgrad.cluster.workers.worker_process import WorkerProcess


def serve(worker: int, workload: Workload, lanes: int, address: Address, secret: bytes) -> None:
    """What each process does."""
    lanes_module.MIN_WORK_FOR_THREADS = 0
    WorkerProcess(worker, workload, lanes).serve(address, secret)


def serve_otherwise(
    worker: int, workload: Workload, lanes: int, address: Address, secret: bytes
) -> None:
    """What a process does whose arithmetic is another."""
    other = replace(compute_fingerprint(), canary="another")
    worker_module.compute_fingerprint = lambda: other  # type: ignore[attr-defined]
    serve(worker, workload, lanes, address, secret)


def serve_and_repeat(
    worker: int, workload: Workload, lanes: int, address: Address, secret: bytes
) -> None:
    """What a process does that says who it is with every answer."""
    serving = WorkerProcess(worker, workload, lanes)
    heed = serving._heed

    def repeat(message: Message) -> None:
        serving._channel.send(Hello(worker, os.getpid(), lanes, **asdict(compute_fingerprint())))
        heed(message)

    serving._heed = repeat  # type: ignore[method-assign]
    serving.serve(address, secret)


class ProcessLauncher:
    """Launcher that starts workers with `multiprocessing`."""

    #: What the next process does.
    target: Callable[..., None] = staticmethod(serve)

    def __init__(
        self, workload: Workload, *, far: frozenset[int] = frozenset(), lanes: int = 1
    ) -> None:
        """Workers that are far away know only the address for other machines; lanes are theirs."""
        self._workload = workload
        self._far = far
        self._lanes = lanes
        self._context = mp.get_context("spawn")
        #: By worker; of a worker that was replaced the newest.
        self.processes: dict[int, BaseProcess] = {}
        self._all: list[BaseProcess] = []

    def start(self, worker: int, address: Address, secret: bytes) -> None:
        lanes = 1
        if worker in self._far:
            address, lanes = replace(address, local=None), self._lanes
        process = self._context.Process(
            target=self.target, args=(worker, self._workload, lanes, address, secret), daemon=True
        )
        process.start()
        self.processes[worker] = process
        self._all.append(process)

    def exit_reason(self, worker: int) -> str | None:
        code = self.processes[worker].exitcode
        return None if code is None else f"its process ended with {code}"

    def kill(self, worker: int) -> None:
        self.processes[worker].kill()

    def release(self, worker: int) -> None:
        self.kill(worker)

    def close(self) -> None:
        for process in self._all:
            process.kill()
            process.join()
            process.close()
