"""A gradient reducer whose workers are processes.

Parameters and sums are in memory that the driver shares with the workers of its machine, and
messages of a few bytes name what to compute and what is done. With workers of other machines the
vectors follow the messages. The driver sleeps while workers compute, and they while it updates.

No step waits for a single worker: idle workers steal from slow ones and compute the microbatches of
late ones too, and the driver replaces frozen ones.
"""

import contextlib
import logging
import os
import time

from sumgrad.cluster.compute.chunks import ChunkedVector
from sumgrad.cluster.compute.os_scheduling import sched_batch
from sumgrad.cluster.compute.worker import Task, Workload
from sumgrad.cluster.planning.reduction import PartialSum, reduce_nodes
from sumgrad.cluster.planning.stragglers import StragglerDetector
from sumgrad.cluster.planning.work_stealing import ClaimTable, StepSchedule
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.cluster.reducers.step import InFlight, ReductionStep
from sumgrad.cluster.transport.buffers import SharedBufferPool
from sumgrad.cluster.transport.messages import Compute, Failed
from sumgrad.cluster.transport.server import Reply
from sumgrad.cluster.workers.launcher import Launcher, Placement
from sumgrad.cluster.workers.scaling_policy import SUPERVISION_INTERVAL_S, ScalingPolicy
from sumgrad.cluster.workers.worker_group import WorkerGroup
from sumgrad.model.validation import Array

_logger = logging.getLogger(__name__)


class ProcessReducer(GradientReducer):
    """A reducer whose workers are processes; it closes `placement` and `launcher`.

    Raises:
        ClusterUnreachable: The workers did not start in time.
        FingerprintMismatch: A worker's arithmetic differs from this process's.
    """

    def __init__(
        self,
        workload: Workload,
        placement: Placement,
        launcher: Launcher,
        policy: ScalingPolicy = ScalingPolicy(),  # noqa: B008 - it is frozen
    ) -> None:
        size, dtype = workload.network.layout.size, workload.network.dtype
        self._workload = workload
        self._step_id = 0
        self._stragglers = StragglerDetector()
        self._in_flight: dict[int, InFlight] = {}  #: By worker; idle workers are not in it.
        self._last_watch = time.monotonic()
        with contextlib.ExitStack() as resources:
            resources.callback(placement.close)
            resources.callback(launcher.close)
            capacity = placement.initial_workers + placement.extra_cpus
            self._buffers = SharedBufferPool(size, dtype, capacity)
            resources.callback(self._buffers.close)
            self._claims = ClaimTable(self._buffers.claims)
            self._chunks = ChunkedVector(size, os.cpu_count() or 1)
            resources.callback(self._chunks.close)
            self._group = WorkerGroup(placement, launcher, self._buffers, policy)
            resources.callback(self._group.close)
            self._group.start()
            self._resources = resources.pop_all()

    @property
    def num_threads(self) -> int:
        return self._group.num_threads

    @property
    def pids(self) -> dict[int, int]:
        """The process ids of the connected workers."""
        return {index: worker.pid for index, worker in self._group.workers.items()}

    def shared_copy(self, like: Array) -> Array:
        return self._buffers.acquire(like)

    def release(self, vector: Array) -> None:
        self._buffers.release(vector)

    def close(self) -> None:
        self._resources.close()

    # --- a step

    def reduce(self, task: Task, flat: Array) -> PartialSum:
        buffer = self._buffers.index(flat)
        if buffer is not None:
            return self._reduce(task, buffer)
        copy = self.shared_copy(flat)
        try:
            return self.reduce(task, copy)
        finally:
            self.release(copy)

    def _reduce(self, task: Task, buffer: int) -> PartialSum:
        plan = self._workload.plan(task)
        self._step_id += 1
        schedule = StepSchedule(range(plan.num_microbatches), self._claims)
        step = ReductionStep(self._step_id, task, buffer, schedule)
        self._prepare_workers(step)
        idle = {w: n for w, n in self._group.threads.items() if w not in self._in_flight}
        try:
            for worker, microbatches in schedule.start(idle).items():
                self._dispatch(step, worker, microbatches)
            with sched_batch():
                while not schedule.complete:
                    self._handle_events(step, self._timeout(step))
                    if not self._group.workers:
                        # Raises once the job has waited for too long.
                        self._group.must_wait(str(task))
                    self._dispatch_idle(step)
        finally:
            if self._in_flight:
                # Others have computed what these workers have, or the step has failed.
                self._claims.cancel_all()
        nodes = schedule.nodes()
        tree = reduce_nodes(nodes, plan.num_microbatches, self._chunks.add_pairs)
        return tree.root(plan.num_rows)

    def _prepare_workers(self, step: ReductionStep) -> None:
        """Scale, and wait for the minimum number of workers."""
        self._last_watch = time.monotonic()
        for worker in self._group.scale_down():
            self._in_flight.pop(worker, None)
        self._group.supervise()
        while self._group.must_wait(str(step.task)):
            self._handle_events(step, SUPERVISION_INTERVAL_S)

    def _handle_events(self, step: ReductionStep, timeout: float) -> None:
        for worker, reply in self._group.events(timeout):
            if reply is None:
                self._on_worker_lost(step, worker, "exited")
            else:
                self._on_reply(step, worker, reply)
        self._evict_frozen(step)
        self._group.supervise()

    def _on_reply(self, step: ReductionStep, worker: int, reply: Reply) -> None:
        request = self._in_flight.pop(worker, None)
        if reply.step_id != step.step_id:
            # A reply to an earlier step, which was completed without this worker.
            return
        if isinstance(reply, Failed):
            self._on_failure(step, worker, reply)
            return
        summed = step.schedule.deliver(worker, reply.nodes)
        self._group.record_sum(worker)
        if request is not None and summed:
            self._stragglers.record(request.kind, time.monotonic() - request.sent, summed)

    def _dispatch_idle(self, step: ReductionStep) -> None:
        """Give microbatches to idle workers as long as there are any."""
        if step.schedule.complete or time.monotonic() < step.paused_until:
            return
        for worker in self._idle_workers(step):
            microbatches = step.schedule.next_assignment(worker) or self._speculate(step, worker)
            if microbatches is None:
                return
            self._dispatch(step, worker, microbatches)

    def _idle_workers(self, step: ReductionStep) -> list[int]:
        """Return idle workers; those that failed in this step only if all others failed too."""
        connected = set(self._group.workers)
        if len(self._in_flight) == len(connected):
            return []
        failed = step.failed_workers
        idle = sorted(connected - set(self._in_flight))
        return [w for w in idle if w not in failed] if connected - failed else idle

    def _dispatch(self, step: ReductionStep, worker: int, microbatches: range) -> None:
        task = step.task
        start, stop = microbatches.start, microbatches.stop
        what = task.kind, task.source, task.epoch, task.step
        message = Compute(step.step_id, *what, start, stop, step.buffer)
        connected = self._group.workers[worker]
        per_sign = 1 if connected.is_local else len(microbatches)
        # Workers of other machines also send vectors, and may have several threads.
        kind = task.kind, task.source, connected.is_local, connected.threads
        self._in_flight[worker] = InFlight(kind, per_sign, time.monotonic(), start)
        if connected.is_local:
            connected.send(message)
        else:
            self._claims.forbid_stealing(worker)
            connected.send(message, [self._buffers.arrays[step.buffer]])

    # --- slow, frozen, failing and lost workers

    def _timeout(self, step: ReductionStep) -> float:
        """Return the seconds until a worker is late and an idle one could recompute its work.

        The microbatches of workers that are late already have been assigned to others too, since no
        worker would be idle otherwise.
        """
        pause = step.paused_until - time.monotonic()
        if pause > 0:
            # Meanwhile lost workers are replaced, and frozen ones noticed.
            return min(pause, SUPERVISION_INTERVAL_S)
        if not self._idle_workers(step):
            return SUPERVISION_INTERVAL_S
        waits = [
            wait
            for worker, request in self._in_flight.items()
            if worker in step.schedule.busy and (wait := self._time_until_late(request)) > 0
        ]
        return max(0.001, min([SUPERVISION_INTERVAL_S, *waits]))

    def _time_until_late(self, request: InFlight) -> float:
        limit = self._stragglers.speculate_after(request.kind, request.per_sign)
        return limit - request.waited

    def _speculate(self, step: ReductionStep, worker: int) -> range | None:
        """Return the microbatches of a late worker, to be computed by another as well."""
        for late, request in self._in_flight.items():
            if late in step.schedule.busy and self._time_until_late(request) <= 0:
                microbatches = step.schedule.speculate(worker, late)
                if microbatches is not None:
                    return microbatches
        return None

    def _evict_frozen(self, step: ReductionStep) -> None:
        """Record which workers make progress, and evict those that hang."""
        now = time.monotonic()
        # Bounded, because the driver itself may have been suspended in between.
        elapsed = min(now - self._last_watch, 2 * SUPERVISION_INTERVAL_S)
        self._last_watch = now
        for worker, request in list(self._in_flight.items()):
            current = self._claims.current(worker)
            if current != request.current:
                request.current, request.waited = current, 0.0
                continue
            request.waited += elapsed
            limit = self._stragglers.hang_timeout(request.kind, request.per_sign)
            if request.waited > limit:
                self._stragglers.record_hang(request.kind)
                self._group.evict(worker)
                self._on_worker_lost(step, worker, f"has not answered for {request.waited:.1f} s")

    def _on_failure(self, step: ReductionStep, worker: int, failed: Failed) -> None:
        """Requeue the work of a worker that raised, unless its microbatch failed too often."""
        step.schedule.requeue(worker)
        step.record_failure(worker, failed)
        where = f"worker {worker} failed on microbatch {failed.microbatch} while {step.task}"
        retrying = "retrying on another worker" if len(self._group.workers) > 1 else "retrying"
        _logger.info("%s: %s; %s", where, failed.cause, retrying)

    def _on_worker_lost(self, step: ReductionStep, worker: int, why: str) -> None:
        """Requeue the work of a lost worker and start a replacement."""
        request = self._in_flight.pop(worker, None)
        is_busy = worker in step.schedule.busy
        stop = self._claims.current(worker) + 1
        step.schedule.requeue(worker)
        # Even if this step fails, the next one needs workers.
        self._group.replace(worker, why)
        if request is not None and is_busy:
            suspects = range(stop - request.per_sign, stop)
            plan = self._workload.plan(step.task)
            rows = plan.row_indices(suspects[0]) if len(suspects) == 1 else []
            step.record_lost_worker(worker, suspects, rows, request.sent)
