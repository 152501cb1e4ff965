"""Workers without Ray: processes that a test may kill, and threads that start at once."""

import multiprocessing as mp
import os
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

from sumgrad.cluster.compute import threads as threads_module
from sumgrad.cluster.compute.fingerprint import compute_fingerprint
from sumgrad.cluster.compute.worker import Workload
from sumgrad.cluster.errors import ClusterError
from sumgrad.cluster.transport.connection import Connection
from sumgrad.cluster.transport.handshake import Address, connect
from sumgrad.cluster.transport.messages import Hello
from sumgrad.cluster.workers.launcher import Launcher
from sumgrad.cluster.workers.worker_process import Session, WorkerProcess

FORKSERVER = mp.get_context("forkserver")
SPAWN = mp.get_context("spawn")


def serve(worker: int, workload: Workload, threads: int, address: Address, secret: bytes) -> None:
    """Serve the driver in this process, with threads for any amount of work."""
    threads_module.MIN_WORK_FOR_THREADS = 0
    WorkerProcess(worker, workload, threads).serve(address, secret)


class ProcessLauncher(Launcher):
    """Starts workers with `multiprocessing`.

    Args:
        remote: Workers that know only the address for other machines.
        threads: Of each of these.
        context: How processes are started.
    """

    def __init__(
        self,
        workload: Workload,
        *,
        remote: frozenset[int] = frozenset(),
        threads: int = 1,
        context: BaseContext = FORKSERVER,
    ) -> None:
        self._workload = workload
        self._remote = remote
        self._threads = threads
        self._context = context
        #: The newest process of each worker.
        self.processes: dict[int, BaseProcess] = {}
        self._all: list[BaseProcess] = []
        self.is_closed = 0

    def start(self, worker: int, address: Address, secret: bytes) -> None:
        threads = 1
        if worker in self._remote:
            address, threads = replace(address, local=None), self._threads
        arguments = (worker, self._workload, threads, address, secret)
        process: BaseProcess = self._context.Process(  # type: ignore[attr-defined]
            target=serve, args=arguments, daemon=True
        )
        process.start()
        self.processes[worker] = process
        self._all.append(process)

    def exit_reason(self, worker: int) -> str | None:
        code = self.processes[worker].exitcode
        return None if code is None else f"its process ended with {code}"

    def kill(self, worker: int) -> None:
        self.processes[worker].kill()

    def close(self) -> None:
        self.is_closed += 1
        for process in self._all:
            process.kill()
            process.join()
            process.close()
        self._all.clear()


def introduce_and_exit(connection: Connection, worker: int) -> None:
    """Join, and disconnect."""
    connection.send(Hello(worker, os.getpid(), 1, asdict(compute_fingerprint())))
    connection.receive()


def serve_with_another_arithmetic(connection: Connection, worker: int) -> None:
    """Introduce a worker whose canary differs, and wait until it is rejected."""
    other = asdict(replace(compute_fingerprint(), canary="another"))
    connection.send(Hello(worker, os.getpid(), 1, other))
    connection.receive()


class ThreadLauncher(Launcher):
    """Runs workers in threads of this process.

    Attributes:
        started: The workers started, in order.
        is_paused: Whether processes do not start now.
        behaviours: What the next workers do instead of working, in the order of their start.
    """

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self.started: list[int] = []
        self.killed: list[int] = []
        self.is_paused = False
        self.behaviours: dict[int, Callable[[Connection, int], None]] = {}
        self._waiting: list[tuple[int, Address, bytes]] = []
        self._connections: dict[int, Connection] = {}
        self._reasons: dict[int, str | None] = {}
        #: How often each worker was started.
        self._starts: dict[int, int] = {}
        self._threads: list[threading.Thread] = []

    def start(self, worker: int, address: Address, secret: bytes) -> None:
        self._reasons[worker] = None
        self._starts[worker] = self._starts.get(worker, 0) + 1
        behaviour = self.behaviours.get(len(self.started))
        self.started.append(worker)
        if self.is_paused:
            self._waiting.append((worker, address, secret))
            return
        thread = threading.Thread(
            target=self._run,
            args=(worker, self._starts[worker], address, secret, behaviour),
            daemon=True,
        )
        self._threads.append(thread)
        thread.start()

    def _run(
        self,
        worker: int,
        start: int,
        address: Address,
        secret: bytes,
        behaviour: Callable[[Connection, int], None] | None,
    ) -> None:
        reason = "it ended"
        try:
            connection = self._connections[worker] = connect(address, secret)
            with closing(connection):
                if behaviour is None:
                    Session(connection, worker, self._workload, 1).run()
                else:
                    behaviour(connection, worker)
        except ClusterError as error:
            reason = str(error)
        if self._starts[worker] == start:
            self._reasons[worker] = reason

    def resume(self) -> None:
        """Start what was to be started in the pause."""
        self.is_paused = False
        waiting, self._waiting = self._waiting, []
        for worker, address, secret in waiting:
            self.started.remove(worker)
            self.start(worker, address, secret)

    def disconnect(self, worker: int) -> None:
        """Close a worker's connection, as its end would."""
        self._connections[worker].shut_down()

    def exit_reason(self, worker: int) -> str | None:
        return self._reasons[worker]

    def kill(self, worker: int) -> None:
        self.killed.append(worker)
        if worker in self._connections:
            self.disconnect(worker)

    def close(self) -> None:
        for worker in list(self._connections):
            self.disconnect(worker)
        for thread in self._threads:
            thread.join(10)
