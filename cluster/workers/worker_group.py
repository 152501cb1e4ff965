"""The worker processes of a job: started, accepted, replaced, and scaled up and down.

A replacement has the index of the worker that was lost. Work continues with the workers that are
connected, and waits only while there are fewer than the minimum.
"""

import logging
import time

from sumgrad.cluster.compute import fingerprint
from sumgrad.cluster.compute.os_scheduling import sched_other
from sumgrad.cluster.errors import ClusterUnreachable, FingerprintMismatch, WorkerLost
from sumgrad.cluster.transport.buffers import SharedBufferPool
from sumgrad.cluster.transport.connection import Connection
from sumgrad.cluster.transport.messages import Hello
from sumgrad.cluster.transport.server import WorkerServer
from sumgrad.cluster.workers import scaling_policy
from sumgrad.cluster.workers.launcher import Launcher, Placement
from sumgrad.cluster.workers.scaling_policy import (
    SUPERVISION_INTERVAL_S,
    ScalingPolicy,
    WorkerMinimum,
)
from sumgrad.cluster.workers.worker_state import WorkerState, start_timeout

_logger = logging.getLogger(__name__)

_LOG_AFTER_S = 10.0  #: Seconds after which a wait for the first processes is logged.
_MAX_ATTEMPTS = 3  #: Consecutive failed starts of a worker that end a job that has not started yet.


class WorkerGroup:
    """The worker processes of a job."""

    def __init__(
        self,
        placement: Placement,
        launcher: Launcher,
        buffers: SharedBufferPool,
        policy: ScalingPolicy,
    ) -> None:
        self._placement = placement
        self._launcher = launcher
        self._buffers = buffers
        self._policy = policy
        self._minimum = WorkerMinimum(policy)
        self._fingerprint = fingerprint.compute_fingerprint()
        #: Every worker that is connected, starting or to be started again, by its index.
        self._states: dict[int, WorkerState] = {}
        self._is_starting = False  #: While `start` runs, a worker that cannot join is an error.
        self._next_supervision = 0.0  #: When `supervise` is due.
        self._server = WorkerServer(placement.host, self._accept, buffers.size, buffers.dtype)
        self.workers, self.events = self._server.workers, self._server.events

    @property
    def threads(self) -> dict[int, int]:
        """The number of threads that compute, for each connected worker."""
        return {index: self.workers[index].threads for index in sorted(self.workers)}

    @property
    def num_threads(self) -> int:
        """The number of threads that compute, over all connected workers."""
        return sum(worker.threads for worker in self.workers.values())

    @property
    def _pending(self) -> dict[int, WorkerState]:
        """The workers that are not connected."""
        return {w: state for w, state in self._states.items() if w not in self.workers}

    # --- start

    def start(self) -> None:
        """Start the initial workers and wait until they are connected."""
        self._is_starting = True
        for worker in range(self._placement.initial_workers):
            self._launch(worker, WorkerState())
        # A process may be slow to start on a busy node although its CPUs were granted.
        timeout = start_timeout(self._policy.resource_timeout)
        started = time.monotonic()
        is_logged = False
        while len(self.workers) < self._placement.initial_workers:
            waited = time.monotonic() - started
            self._check_start(waited, timeout)
            if waited > _LOG_AFTER_S and not is_logged:
                limit = scaling_policy.format_limit(timeout)
                _logger.info("waiting for %s to start; %s", self._missing(), limit)
                is_logged = True
            for worker, reply in self.events(SUPERVISION_INTERVAL_S):
                if reply is None:
                    self.replace(worker, "exited")
            self.supervise()
        self._is_starting = False
        self.scale_up()

    def _missing(self) -> str:
        initial = self._placement.initial_workers
        return f"{initial - len(self.workers)} of {initial} worker processes"

    def _check_start(self, waited: float, timeout: float) -> None:
        """Raise if waiting for the initial workers is useless."""
        if self._policy.should_stop():
            raise ClusterUnreachable(f"stopped while {self._missing()} were starting")
        for worker, pending in self._pending.items():
            if pending.attempts >= _MAX_ATTEMPTS and pending.retry_at is not None:
                raise WorkerLost(worker, f"starting: {pending.reason}")
        if waited > timeout:
            raise ClusterUnreachable(
                f"{self._missing()} did not start within {timeout:.0f} s",
                hint="use fewer workers (cluster.workers), or check 'ray status'",
            )

    def _launch(self, worker: int, state: WorkerState) -> None:
        state.begin_attempt()
        self._states[worker] = state
        with sched_other():
            self._launcher.start(worker, self._server.address, self._server.secret)

    # --- connected workers

    def _accept(self, connection: Connection, hello: Hello) -> bool:
        """Return whether a worker is accepted, and send it what it needs if so.

        Other arithmetic than this process's raises `FingerprintMismatch` for an initial worker.
        """
        worker = hello.worker
        state = self._pending.get(worker)
        if state is None:
            # Another process has its index, or its CPUs were released.
            return False
        try:
            fingerprint.check_same_fingerprint(self._fingerprint, hello.fingerprint, worker)
        except FingerprintMismatch as error:
            if self._is_starting:
                raise
            self._launcher.kill(worker)
            state.fail(str(error))
            _logger.info("worker %d was rejected (%s); retrying", worker, error)
            return False
        if self._placement.has_moved(worker):
            # `scale_up` asks for other CPUs instead.
            self._release(worker)
            return False
        self._buffers.welcome(connection)
        running = self.num_threads + hello.threads
        if state.is_joining:
            _logger.info("worker %d joined: %s now", worker, _workers(running))
        state.connect(hello.threads)
        self._minimum.update(running)
        return True

    def replace(self, worker: int, why: str) -> None:
        """Start a replacement for a worker that has disconnected or was evicted.

        Attempts after which a worker connected but did not deliver a sum count as failed ones: only
        the first of them is followed by another at once.
        """
        _logger.info("worker %d %s; starting a replacement", worker, why)
        state = self._states[worker]
        if state.attempts < 2:
            self._launch(worker, state)
        else:
            state.fail(self._launcher.exit_reason(worker) or f"it {why}")

    def record_sum(self, worker: int) -> None:
        """Record that a worker has delivered a sum, which ends its count of attempts."""
        self._states[worker].attempts = 0

    def evict(self, worker: int) -> None:
        """Disconnect and kill a worker that does not answer."""
        self._server.disconnect(worker)
        self._launcher.kill(worker)

    def must_wait(self, activity: str) -> bool:
        """Return whether to wait for more workers; see `WorkerMinimum.must_wait`."""
        reasons = (
            pending.reason or self._launcher.exit_reason(worker)
            for worker, pending in self._pending.items()
        )
        return self._minimum.must_wait(self.num_threads, activity, reasons)

    # --- scaling

    def _num_requested_cpus(self) -> int:
        """Return the number of CPUs that connected and pending workers have or ask for."""
        return sum(state.threads for state in self._states.values())

    def scale_up(self) -> None:
        """Start as many extra workers as the job's share of CPUs allows."""
        missing = self._placement.cpu_share() - self._num_requested_cpus()
        capacity = self._placement.initial_workers + self._placement.extra_cpus
        unused = set(range(capacity)) - set(self._states)
        for worker in sorted(unused)[: max(0, missing)]:
            self._launch(worker, WorkerState(is_joining=True))

    def cancel_pending(self) -> None:
        """Cancel pending workers beyond the job's share of CPUs."""
        excess = self._num_requested_cpus() - self._placement.cpu_share()
        for worker, pending in sorted(self._pending.items(), reverse=True):
            if excess <= 0:
                return
            is_idle = pending.retry_at is not None or not self._placement.has_cpus(worker)
            if is_idle and not self._placement.is_required(worker):
                excess -= pending.threads
                self._release(worker)

    def scale_down(self) -> list[int]:
        """Release workers beyond the job's share of CPUs, between two steps, and return them."""
        excess = self.num_threads - self._placement.cpu_share()
        if excess <= 0:
            return []
        # Pending workers would take the CPUs that are released.
        self.cancel_pending()
        candidates = {w: n for w, n in self.threads.items() if not self._placement.is_required(w)}
        released = scaling_policy.choose_workers_to_release(candidates, excess)
        for worker in released:
            self._server.disconnect(worker)
            self._release(worker)
        if released:
            _logger.info("released CPUs to other jobs: %s now", _workers(self.num_threads))
        return released

    def _release(self, worker: int) -> None:
        self._launcher.kill(worker)
        self._placement.release(worker)
        del self._states[worker]

    # --- supervision

    def supervise(self) -> None:
        """Start failed processes again and scale, at most once a second."""
        now = time.monotonic()
        if now < self._next_supervision:
            return
        self._next_supervision = now + SUPERVISION_INTERVAL_S
        failure = self._launcher.backend_failure(starting=self._is_starting)
        if failure is not None:
            raise ClusterUnreachable(failure, hint="'sumgrad resume' continues the run")
        for worker, pending in self._pending.items():
            if pending.retry_at is None:
                self._check_process(worker, pending, now)
            elif now >= pending.retry_at:
                self._launch(worker, pending)
        if not self._is_starting:
            self.cancel_pending()
            self.scale_up()

    def _check_process(self, worker: int, pending: WorkerState, now: float) -> None:
        """Schedule another attempt if a starting process has ended or hangs."""
        reason = self._launcher.exit_reason(worker)
        if reason is None:
            if self._is_starting:
                return
            if not self._placement.has_cpus(worker):
                pending.started = now
                return
            timeout = pending.timeout(self._policy.resource_timeout)
            if now - pending.started <= timeout:
                return
            self._launcher.kill(worker)
            reason = f"it did not connect within {timeout:.0f} s"
        pending.fail(reason)
        _logger.info("worker %d did not start (%s); retrying", worker, reason)

    def close(self) -> None:
        """Close all connections, upon which the workers exit."""
        self._server.close()


def _workers(count: int) -> str:
    return f"{count} worker{'' if count == 1 else 's'}"
