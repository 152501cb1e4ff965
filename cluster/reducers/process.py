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

from sumgrad.cluster.compute.chunks import Blocks
from sumgrad.cluster.compute.os_scheduling import batch_policy
from sumgrad.cluster.compute.worker import Task, Workload
from sumgrad.cluster.errors import ChannelClosed, ShardFailed
from sumgrad.cluster.planning.reduction import PartialSum, combine
from sumgrad.cluster.planning.stragglers import Patience
from sumgrad.cluster.planning.work_stealing import Claims, StepSchedule
from sumgrad.cluster.reducers.base import Exchange
from sumgrad.cluster.transport import memfd as memory
from sumgrad.cluster.transport.connection import Channel
from sumgrad.cluster.transport.messages import (
    Compute,
    Done,
    Failed,
    Message,
    NewVector,
    Welcome,
    node_of,
)
from sumgrad.cluster.transport.server import Member
from sumgrad.cluster.transport.shared_memory import SharedVectors
from sumgrad.cluster.workers.scaling_policy import LOOK_S, CrewRules, Launcher
from sumgrad.cluster.workers.worker_group import Crew
from sumgrad.model.validation import Array

#: A micro-shard on which so many workers failed is itself to blame …
_FATAL_FAILURES = 2
#: … and so is one on which they failed so often in all, where one worker is all there is …
_FATAL_TRIES = 3
#: … or one during which so many ended without a word, which may be bad luck.
_FATAL_DEATHS = 3


@dataclass
class _Asked:
    """What a worker was asked, and has not answered.

    Attributes:
        serial: Of the step.
        kind: Of its micro-shards, for `Patience`.
        shards: How many they are, if its progress is not seen; else 1, the one it is at.
        since: When it was asked.
        begun: The micro-shard that it was seen at last.
        waited: Seconds without a sign of progress, as far as the driver itself was awake.
    """

    serial: int
    kind: Hashable
    shards: int
    since: float
    begun: int
    waited: float = 0.0


@dataclass
class _Step:
    """What is being computed."""

    serial: int
    task: Task
    vector: int
    schedule: StepSchedule
    #: By micro-shard: how often which worker failed on it, and how many ended with it.
    failures: dict[int, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    deaths: Counter[int] = field(default_factory=Counter)

    @property
    def kind(self) -> Hashable:
        """Of its micro-shards."""
        return self.task.kind, self.task.source


class ProcessExchange(Exchange):
    """A number of worker processes.

    Args:
        workload: Network, rows and plans.
        workers: How many processes to begin with. Each says how many threads of it compute, and
            counts as so many workers.
        launcher: Starts them; closed with the exchange.
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
        rules: CrewRules = CrewRules(),  # noqa: B008 - it is frozen
    ) -> None:
        self._workload = workload
        self._layout = workload.network.layout
        self._dtype = workload.network.dtype
        self._note = rules.note
        self._vectors = SharedVectors(self._layout.size, self._dtype, self._tell)
        self._serial = 0
        self._patience = Patience()
        #: By worker; whoever is not here has nothing to do.
        self._asked: dict[int, _Asked] = {}
        self._watched = time.monotonic()
        with contextlib.ExitStack() as held:
            held.callback(launcher.close)
            held.callback(self._vectors.close)
            self._blocks = Blocks(self._layout.size, os.cpu_count() or 1)
            held.callback(self._blocks.close)
            places = workers + rules.extra
            self._claims_memory, numbers = memory.create((places, 2), "int64")
            held.callback(os.close, self._claims_memory)
            self._claims = Claims(numbers)
            self._crew = Crew(workers, launcher, self._introduce, self._room, rules)
            held.callback(self._crew.close)
            self._crew.start()
            #: Whatever is to be closed, the latest first.
            self._held = held.pop_all()

    @property
    def workers(self) -> int:
        """See `Exchange.workers`; those that are connected now."""
        return self._crew.present

    @property
    def pids(self) -> dict[int, int]:
        """The process ids of the workers that are connected."""
        return {worker: member.pid for worker, member in self._crew.members.items()}

    # --- vectors

    def vector(self, like: Array) -> Array:
        """See `Exchange.vector`; every worker of this machine maps it."""
        return self._vectors.take(like)

    def release(self, vector: Array) -> None:
        """See `Exchange.release`."""
        self._vectors.give_back(vector)

    def _tell(self, number: int, descriptor: int) -> None:
        """All workers of this machine are told of a new vector."""
        for member in self._crew.members.values():
            if member.channel.is_local:
                # Whoever is gone is noticed where its end is heard of.
                with contextlib.suppress(ChannelClosed):
                    member.channel.send(NewVector(number), [descriptor])

    def _introduce(self, channel: Channel) -> None:
        """Tell a new worker of the memory that it shares."""
        places = self._crew.places
        channel.send(Welcome(places), [self._claims_memory] if channel.is_local else [])
        if channel.is_local:
            for number, descriptor in enumerate(self._vectors.descriptors):
                channel.send(NewVector(number), [descriptor])

    def _attach(self, member: Member, number: int) -> None:
        descriptor = member.channel.descriptor()
        try:
            member.vectors[number] = memory.attach(descriptor, (self._layout.size,), self._dtype)
        finally:
            os.close(descriptor)

    def _room(self, member: Member, message: Message) -> list[Array]:
        """Vectors for the numbers that come with another machine's sums."""
        if not isinstance(message, Done):
            return []
        numbers = [vector for *_, vector in message.nodes if vector is not None]
        for number in numbers:
            if number not in member.vectors:
                member.vectors[number] = np.empty(self._layout.size, self._dtype)
        return [member.vectors[number] for number in numbers]

    # --- a step

    def total(self, task: Task, flat: Array) -> PartialSum:
        """See `Exchange.total`."""
        number = self._vectors.number(flat)
        if number is not None:
            return self._total(task, number)
        copy = self.vector(flat)
        try:
            return self.total(task, copy)
        finally:
            self.release(copy)

    def _total(self, task: Task, vector: int) -> PartialSum:
        plan = self._workload.plan(task)
        self._serial += 1
        schedule = StepSchedule(range(plan.shards), self._claims)
        step = _Step(self._serial, task, vector, schedule)
        self._watched = time.monotonic()
        for worker in self._crew.give_back():
            self._asked.pop(worker, None)
        self._crew.look_after()
        while self._crew.must_wait(str(task)):
            self._listen(step, LOOK_S)
        lanes = {w: n for w, n in self._crew.lanes.items() if w not in self._asked}
        try:
            for worker, shards in schedule.start(lanes).items():
                self._ask(step, worker, shards)
            with batch_policy():
                while not schedule.complete:
                    self._listen(step, self._alarm(step))
                    if not self._crew.members:
                        self._crew.must_wait(str(task))
                    self._employ(step)
        finally:
            if self._asked:
                # Whoever still computes has been overtaken by others, or the step has failed.
                self._claims.stop()
        return combine(schedule.nodes(), plan.shards, self._blocks).root(plan.rows)

    def _listen(self, step: _Step, timeout: float) -> None:
        """Hear what there is to hear, and look after those of whom there is nothing."""
        for worker, message in self._crew.events(timeout):
            if isinstance(message, NewVector):
                self._attach(self._crew.members[worker], message.vector)
            elif message is None:
                self._lost(step, worker, "is gone")
            else:
                self._heed(step, worker, message)
        self._watch(step)
        self._crew.look_after()

    def _heed(self, step: _Step, worker: int, message: Message) -> None:
        """What a worker's answer means for the step."""
        asked = self._asked.pop(worker, None)
        if not isinstance(message, Done | Failed) or message.serial != step.serial:
            # An answer of a worker that was late for an earlier step.
            return
        if isinstance(message, Failed):
            self._failed(step, worker, message)
            return
        vectors = self._crew.members[worker].vectors
        nodes = [node_of(node, vectors) for node in message.nodes]
        shards = step.schedule.deliver(worker, nodes)
        if asked is not None and shards:
            self._patience.measured(step.kind, time.monotonic() - asked.since, shards)

    def _employ(self, step: _Step) -> None:
        """Give work to the workers that have none, as long as there is some."""
        if step.schedule.complete:
            return
        for worker in self._idle(step):
            shards = step.schedule.next_for(worker) or self._copy_for(step, worker)
            if shards is None:
                return
            self._ask(step, worker, shards)

    def _idle(self, step: _Step) -> list[int]:
        """Those who can be given something; who failed in this step only if there is no other."""
        members = self._crew.members
        if len(self._asked) == len(members):
            return []
        failed = {worker for causes in step.failures.values() for worker in causes}
        idle = sorted(set(members) - set(self._asked))
        return [w for w in idle if w not in failed] if set(members) - failed else idle

    def _ask(self, step: _Step, worker: int, shards: range) -> None:
        task = step.task
        message = Compute(
            step.serial,
            task.kind,
            task.source,
            task.epoch,
            task.step,
            shards.start,
            shards.stop,
            step.vector,
        )
        member = self._crew.members[worker]
        unseen = 1 if member.courier is None else len(shards)
        self._asked[worker] = _Asked(step.serial, step.kind, unseen, time.monotonic(), shards.start)
        if member.courier is not None:
            self._claims.close(worker)
            member.courier.send(message, [self._vectors.arrays[step.vector]])
            return
        # Whoever is gone is noticed where its end is heard of.
        with contextlib.suppress(ChannelClosed):
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
            for worker, asked in self._asked.items()
            if worker in step.schedule.busy
            and (wait := self._patience.late(asked.kind, asked.shards) - asked.waited) > 0
        ]
        return max(0.001, min([LOOK_S, *waits]))

    def _watch(self, step: _Step) -> None:
        """Note who makes progress, and give up who has made none for far too long."""
        now = time.monotonic()
        # Were the driver itself frozen for a while, nobody else is to blame for it.
        passed, self._watched = min(now - self._watched, 2 * LOOK_S), now
        for worker, asked in list(self._asked.items()):
            begun = self._claims.begun(worker)
            if begun != asked.begun:
                asked.begun, asked.waited = begun, 0.0
                continue
            asked.waited += passed
            if asked.waited > self._patience.lost(asked.kind, asked.shards):
                self._patience.gave_up(asked.kind)
                self._crew.give_up(worker)
                self._lost(step, worker, f"has not answered for {asked.waited:.1f} s")

    def _copy_for(self, step: _Step, worker: int) -> range | None:
        """A copy of what a late worker has."""
        for late, asked in self._asked.items():
            if late in step.schedule.busy and asked.waited >= self._patience.late(
                asked.kind, asked.shards
            ):
                shards = step.schedule.copy_for(worker, late)
                if shards is not None:
                    return shards
        return None

    def _failed(self, step: _Step, worker: int, failed: Failed) -> None:
        """A worker raised: another one tries, unless that has been done.

        The only one there is tries again: its fault may pass, or another may come.
        """
        failures = step.failures[failed.shard]
        failures[worker] += 1
        step.schedule.lose(worker)
        if len(failures) >= _FATAL_FAILURES or failures.total() >= _FATAL_TRIES:
            raise self._fault(step, worker, failed.shard, failed.cause, failed.rows)
        who = "another one tries" if len(self._crew.members) > 1 else "it tries again"
        self._note(
            f"worker {worker} failed on micro-shard {failed.shard} while {step.task}: "
            f"{failed.cause}; {who}"
        )

    def _lost(self, step: _Step, worker: int, why: str) -> None:
        """A worker ended: the others take over, and another is started in its place."""
        self._asked.pop(worker, None)
        shard = self._claims.begun(worker) if worker in step.schedule.busy else None
        step.schedule.lose(worker)
        # Whatever becomes of this step, the next one needs workers.
        self._crew.lost(worker, why)
        if shard is None:
            return
        step.deaths[shard] += 1
        if step.deaths[shard] >= _FATAL_DEATHS:
            cause = f"{_FATAL_DEATHS} workers ended or froze while they computed it"
            rows = self._workload.plan(step.task).row_numbers(shard)
            raise self._fault(step, worker, shard, cause, rows)

    def _fault(
        self, step: _Step, worker: int, shard: int, cause: str, rows: Sequence[int]
    ) -> ShardFailed:
        failures = step.failures[shard]
        others = [str(other) for other in failures if other != worker]
        if others:
            cause += f" (worker {', '.join(others)} failed on it as well)"
        elif failures[worker] > 1:
            cause += f" (it failed on it {failures[worker]} times)"
        return ShardFailed(worker, shard, str(step.task), cause, step.task.source, rows)

    def close(self) -> None:
        """End the workers' processes."""
        self._held.close()
