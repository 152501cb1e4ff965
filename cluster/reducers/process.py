"""Gradient workers in processes of their own.

Parameters and sums lie in memory that the driver and the workers of its machine share; what travels
are a few bytes that say what to compute and what is done. With workers of other machines they
travel too: one message each way. The driver sleeps while they compute, and so do they while it
updates.

No step waits for one worker alone. Who is slow is helped; who is late has what it holds computed by
others as well, and is not asked again before it has answered; who is frozen is replaced.
"""

import contextlib
import os
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from sumgrad.cluster.compute.chunks import ChunkedVector
from sumgrad.cluster.compute.os_scheduling import sched_batch
from sumgrad.cluster.compute.worker import Task, Workload
from sumgrad.cluster.errors import ConnectionClosed, MicrobatchFailed
from sumgrad.cluster.planning.reduction import PartialSum, reduce_nodes
from sumgrad.cluster.planning.stragglers import StragglerDetector
from sumgrad.cluster.planning.work_stealing import ClaimTable, StepSchedule
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.cluster.transport import memfd as memory
from sumgrad.cluster.transport.connection import Connection
from sumgrad.cluster.transport.messages import (
    AttachBuffer,
    Compute,
    Done,
    Failed,
    Message,
    Welcome,
    node_of,
)
from sumgrad.cluster.transport.server import WorkerConnection
from sumgrad.cluster.transport.shared_memory import SharedBufferPool
from sumgrad.cluster.workers.scaling_policy import LOOK_S, Launcher, ScalingPolicy
from sumgrad.cluster.workers.worker_group import WorkerGroup
from sumgrad.model.validation import Array

#: A microbatch on which so many workers failed is itself to blame …
_FATAL_FAILURES = 2
#: … and so is one on which they failed so often in all, where one worker is all there is …
_FATAL_TRIES = 3
#: … or one during which so many ended without a word, which may be bad luck.
_FATAL_DEATHS = 3


@dataclass
class _InFlight:
    """What a worker was asked, and has not answered.

    Attributes:
        step_id: Of the step.
        kind: Of its microbatches, for `StragglerDetector`.
        shards: How many they are, if its progress is not seen; else 1, the one it is at.
        since: When it was asked.
        begun: The microbatch that it was seen at last.
        waited: Seconds without a sign of progress, as far as the driver itself was awake.
    """

    step_id: int
    kind: Hashable
    shards: int
    since: float
    begun: int
    waited: float = 0.0


@dataclass
class _Step:
    """What is being computed."""

    step_id: int
    task: Task
    vector: int
    schedule: StepSchedule
    #: By microbatch: how often which worker failed on it, and how many ended with it.
    failures: dict[int, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    deaths: Counter[int] = field(default_factory=Counter)

    @property
    def kind(self) -> Hashable:
        """Of its microbatches."""
        return self.task.kind, self.task.source


class ProcessReducer(GradientReducer):
    """A number of worker processes.

    Args:
        workload: Network, rows and plans.
        workers: How many processes to begin with. Each says how many threads of it compute, and
            counts as so many workers.
        launcher: Starts them; closed with the reducer.
        rules: How many there are to be.

    Raises:
        ClusterUnreachable: The workers did not start in time.
        FingerprintMismatch: A worker's arithmetic is not this process's.
    """

    def __init__(
        self,
        workload: Workload,
        workers: int,
        launcher: Launcher,
        rules: ScalingPolicy = ScalingPolicy(),  # noqa: B008 - it is frozen
    ) -> None:
        self._workload = workload
        self._layout = workload.network.layout
        self._dtype = workload.network.dtype
        self._note = rules.note
        self._vectors = SharedBufferPool(self._layout.size, self._dtype, self._tell)
        self._step_id = 0
        self._stragglers = StragglerDetector()
        #: By worker; whoever is not here has nothing to do.
        self._in_flight: dict[int, _InFlight] = {}
        self._watched = time.monotonic()
        with contextlib.ExitStack() as held:
            held.callback(launcher.close)
            held.callback(self._vectors.close)
            self._blocks = ChunkedVector(self._layout.size, os.cpu_count() or 1)
            held.callback(self._blocks.close)
            places = workers + rules.extra
            self._claims_memory, numbers = memory.create((places, 2), "int64")
            held.callback(os.close, self._claims_memory)
            self._claims = ClaimTable(numbers)
            self._group = WorkerGroup(workers, launcher, self._introduce, self._room, rules)
            held.callback(self._group.close)
            self._group.start()
            #: Whatever is to be closed, the latest first.
            self._held = held.pop_all()

    @property
    def workers(self) -> int:
        """See `GradientReducer.workers`; those that are connected now."""
        return self._group.present

    @property
    def pids(self) -> dict[int, int]:
        """The process ids of the workers that are connected."""
        return {worker: member.pid for worker, member in self._group.members.items()}

    # --- vectors

    def shared_copy(self, like: Array) -> Array:
        """See `GradientReducer.vector`; every worker of this machine maps it."""
        return self._vectors.take(like)

    def release(self, vector: Array) -> None:
        """See `GradientReducer.release`."""
        self._vectors.give_back(vector)

    def _tell(self, number: int, descriptor: int) -> None:
        """All workers of this machine are told of a new vector."""
        for member in self._group.members.values():
            if member.channel.is_local:
                # Whoever is gone is noticed where its end is heard of.
                with contextlib.suppress(ConnectionClosed):
                    member.channel.send(AttachBuffer(number), [descriptor])

    def _introduce(self, channel: Connection) -> None:
        """Tell a new worker of the memory that it shares."""
        places = self._group.max_workers
        channel.send(Welcome(places), [self._claims_memory] if channel.is_local else [])
        if channel.is_local:
            for number, descriptor in enumerate(self._vectors.descriptors):
                channel.send(AttachBuffer(number), [descriptor])

    def _attach(self, member: WorkerConnection, number: int) -> None:
        descriptor = member.channel.descriptor()
        try:
            member.vectors[number] = memory.attach(descriptor, (self._layout.size,), self._dtype)
        finally:
            os.close(descriptor)

    def _room(self, member: WorkerConnection, message: Message) -> list[Array]:
        """Vectors for the numbers that come with another machine's sums."""
        if not isinstance(message, Done):
            return []
        numbers = [vector for *_, vector in message.nodes if vector is not None]
        for number in numbers:
            if number not in member.vectors:
                member.vectors[number] = np.empty(self._layout.size, self._dtype)
        return [member.vectors[number] for number in numbers]

    # --- a step

    def reduce(self, task: Task, flat: Array) -> PartialSum:
        """See `GradientReducer.total`."""
        number = self._vectors.number(flat)
        if number is not None:
            return self._total(task, number)
        copy = self.shared_copy(flat)
        try:
            return self.reduce(task, copy)
        finally:
            self.release(copy)

    def _total(self, task: Task, vector: int) -> PartialSum:
        plan = self._workload.plan(task)
        self._step_id += 1
        schedule = StepSchedule(range(plan.num_microbatches), self._claims)
        step = _Step(self._step_id, task, vector, schedule)
        self._watched = time.monotonic()
        for worker in self._group.give_back():
            self._in_flight.pop(worker, None)
        self._group.supervise()
        while self._group.must_wait(str(task)):
            self._listen(step, LOOK_S)
        lanes = {w: n for w, n in self._group.lanes.items() if w not in self._in_flight}
        try:
            for worker, shards in schedule.start(lanes).items():
                self._dispatch(step, worker, shards)
            with sched_batch():
                while not schedule.complete:
                    self._listen(step, self._alarm(step))
                    if not self._group.members:
                        self._group.must_wait(str(task))
                    self._dispatch_idle(step)
        finally:
            if self._in_flight:
                # Whoever still computes has been overtaken by others, or the step has failed.
                self._claims.cancel_all()
        return reduce_nodes(schedule.nodes(), plan.num_microbatches, self._blocks.add_pairs).root(
            plan.num_rows
        )

    def _listen(self, step: _Step, timeout: float) -> None:
        """Hear what there is to hear, and look after those of whom there is nothing."""
        for worker, message in self._group.events(timeout):
            if isinstance(message, AttachBuffer):
                self._attach(self._group.members[worker], message.vector)
            elif message is None:
                self._lost(step, worker, "is gone")
            else:
                self._on_reply(step, worker, message)
        self._watch(step)
        self._group.supervise()

    def _on_reply(self, step: _Step, worker: int, message: Message) -> None:
        """What a worker's answer means for the step."""
        asked = self._in_flight.pop(worker, None)
        if not isinstance(message, Done | Failed) or message.step_id != step.step_id:
            # An answer of a worker that was late for an earlier step.
            return
        if isinstance(message, Failed):
            self._failed(step, worker, message)
            return
        vectors = self._group.members[worker].vectors
        nodes = [node_of(node, vectors) for node in message.nodes]
        shards = step.schedule.deliver(worker, nodes)
        if asked is not None and shards:
            self._stragglers.record(step.kind, time.monotonic() - asked.since, shards)

    def _dispatch_idle(self, step: _Step) -> None:
        """Give work to the workers that have none, as long as there is some."""
        if step.schedule.complete:
            return
        for worker in self._idle(step):
            shards = step.schedule.next_assignment(worker) or self._copy_for(step, worker)
            if shards is None:
                return
            self._dispatch(step, worker, shards)

    def _idle(self, step: _Step) -> list[int]:
        """Those who can be given something; who failed in this step only if there is no other."""
        members = self._group.members
        if len(self._in_flight) == len(members):
            return []
        failed = {worker for causes in step.failures.values() for worker in causes}
        idle = sorted(set(members) - set(self._in_flight))
        return [w for w in idle if w not in failed] if set(members) - failed else idle

    def _dispatch(self, step: _Step, worker: int, shards: range) -> None:
        task = step.task
        message = Compute(
            step.step_id,
            task.kind,
            task.source,
            task.epoch,
            task.step,
            shards.start,
            shards.stop,
            step.vector,
        )
        member = self._group.members[worker]
        unseen = 1 if member.courier is None else len(shards)
        self._in_flight[worker] = _InFlight(
            step.step_id, step.kind, unseen, time.monotonic(), shards.start
        )
        if member.courier is not None:
            self._claims.forbid_stealing(worker)
            member.courier.send(message, [self._vectors.arrays[step.vector]])
            return
        # Whoever is gone is noticed where its end is heard of.
        with contextlib.suppress(ConnectionClosed):
            member.channel.send(message)

    # --- workers who are late, frozen, failing or gone

    def _alarm(self, step: _Step) -> float:
        """Seconds until a worker will be late, if there is somebody to help it out.

        Who is late by now has been helped, or else somebody would not be idle.
        """
        if not self._idle(step):
            return LOOK_S
        waits = [
            wait
            for worker, asked in self._in_flight.items()
            if worker in step.schedule.busy
            and (wait := self._stragglers.speculate_after(asked.kind, asked.shards) - asked.waited)
            > 0
        ]
        return max(0.001, min([LOOK_S, *waits]))

    def _watch(self, step: _Step) -> None:
        """Note who makes progress, and give up who has made none for far too long."""
        now = time.monotonic()
        # Were the driver itself frozen for a while, nobody else is to blame for it.
        passed, self._watched = min(now - self._watched, 2 * LOOK_S), now
        for worker, asked in list(self._in_flight.items()):
            begun = self._claims.current(worker)
            if begun != asked.begun:
                asked.begun, asked.waited = begun, 0.0
                continue
            asked.waited += passed
            if asked.waited > self._stragglers.hang_timeout(asked.kind, asked.shards):
                self._stragglers.record_hang(asked.kind)
                self._group.give_up(worker)
                self._lost(step, worker, f"has not answered for {asked.waited:.1f} s")

    def _copy_for(self, step: _Step, worker: int) -> range | None:
        """A copy of what a late worker has."""
        for late, asked in self._in_flight.items():
            if late in step.schedule.busy and asked.waited >= self._stragglers.speculate_after(
                asked.kind, asked.shards
            ):
                shards = step.schedule.speculate(worker, late)
                if shards is not None:
                    return shards
        return None

    def _failed(self, step: _Step, worker: int, failed: Failed) -> None:
        """A worker raised: another one tries, unless that has been done.

        The only one there is tries again: its fault may pass, or another may come.
        """
        failures = step.failures[failed.microbatch]
        failures[worker] += 1
        step.schedule.requeue(worker)
        if len(failures) >= _FATAL_FAILURES or failures.total() >= _FATAL_TRIES:
            raise self._fault(step, worker, failed.microbatch, failed.cause, failed.rows)
        who = "another one tries" if len(self._group.members) > 1 else "it tries again"
        self._note(
            f"worker {worker} failed on microbatch {failed.microbatch} while {step.task}: "
            f"{failed.cause}; {who}"
        )

    def _lost(self, step: _Step, worker: int, why: str) -> None:
        """A worker ended: the others take over, and another is started in its place."""
        self._in_flight.pop(worker, None)
        shard = self._claims.current(worker) if worker in step.schedule.busy else None
        step.schedule.requeue(worker)
        # Whatever becomes of this step, the next one needs workers.
        self._group.lost(worker, why)
        if shard is None:
            return
        step.deaths[shard] += 1
        if step.deaths[shard] >= _FATAL_DEATHS:
            cause = f"{_FATAL_DEATHS} workers ended or froze while they computed it"
            rows = self._workload.plan(step.task).row_indices(shard)
            raise self._fault(step, worker, shard, cause, rows)

    def _fault(
        self, step: _Step, worker: int, shard: int, cause: str, rows: Sequence[int]
    ) -> MicrobatchFailed:
        failures = step.failures[shard]
        others = [str(other) for other in failures if other != worker]
        if others:
            cause += f" (worker {', '.join(others)} failed on it as well)"
        elif failures[worker] > 1:
            cause += f" (it failed on it {failures[worker]} times)"
        return MicrobatchFailed(worker, shard, str(step.task), cause, step.task.source, rows)

    def close(self) -> None:
        """End the workers' processes."""
        self._held.close()
