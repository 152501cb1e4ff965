"""Gradient workers in processes of their own.

Parameters and sums lie in memory that the driver and the workers of its machine share; what travels
are a few bytes that say what to compute and what is done. With workers of other machines they
travel too: one message each way. The driver sleeps while they compute, and so do they while it
updates.
"""

import contextlib
import functools
import os
import selectors
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from cluster import memory
from cluster.blocks import Blocks
from cluster.channel import Address, Channel
from cluster.courier import Courier, Inbox
from cluster.doorkeeper import Doorkeeper
from cluster.errors import ChannelClosed, ClusterUnreachable, ShardFailed, WorkerLost
from cluster.exchange import Exchange
from cluster.fingerprint import Fingerprint, expect_same, take_fingerprint
from cluster.messages import (
    Compute,
    Done,
    Failed,
    Hello,
    Message,
    NewVector,
    Welcome,
    expect,
    node_of,
)
from cluster.schedule import Claims, StepSchedule
from cluster.tree import PartialSum, combine
from cluster.worker import Task, Workload
from model.checks import Array

#: How long workers may take to start before it is told that they do not, in seconds.
START_DEADLINE_S = 60.0
#: How often it is looked whether a worker that is starting has failed, in seconds.
_LOOK_S = 1.0
#: A micro-shard during which so many workers ended is taken for the cause.
_FATAL = 2


class Launcher(Protocol):
    """Starts the processes of workers and watches them."""

    def start(self, worker: int, address: Address, secret: bytes) -> None:
        """Start a process in which a `ServingWorker` serves the driver at this address."""

    def ended(self, worker: int) -> str | None:
        """Why a worker's process is no more, or None while it is starting or running.

        Raises:
            SumgradError: What it raised itself.
        """

    def close(self) -> None:
        """End all processes."""


@dataclass
class _Member:
    """A worker that is connected."""

    channel: Channel
    pid: int
    #: Of a worker on another machine.
    courier: Courier | None = None
    vectors: dict[int, Array] = field(default_factory=dict)

    def hang_up(self) -> None:
        """End the connection."""
        if self.courier is not None:
            self.courier.close()
        self.channel.close()


class ProcessExchange(Exchange):
    """A number of worker processes.

    Args:
        workload: Network, rows and plans.
        lanes: For each process, how many threads of it compute: each counts as one worker.
        launcher: Starts them; closed with the exchange.
        host: This machine's address for workers on others; None if there are none.

    Raises:
        ClusterUnreachable: The workers did not start in time.
        FingerprintMismatch: A worker's arithmetic is not this process's.
    """

    def __init__(
        self,
        workload: Workload,
        lanes: Sequence[int],
        launcher: Launcher,
        *,
        host: str | None = None,
    ) -> None:
        workers = len(lanes)
        self.workers = sum(lanes)
        self._lanes = list(lanes)
        self._workload = workload
        self._launcher = launcher
        self._fingerprint = take_fingerprint()
        self._layout = workload.network.layout
        self._dtype = workload.network.dtype
        self._blocks = Blocks(self._layout.size, os.cpu_count() or 1)
        self._claims_memory, numbers = memory.create((workers, 2), "int64")
        self._claims = Claims(numbers)
        #: Descriptors of our vectors, by their numbers; and the arrays, which keep their ids alive.
        self._descriptors: list[int] = []
        self._vectors: list[Array] = []
        #: Numbers of vectors that were released.
        self._free: list[int] = []
        self._serial = 0
        #: Workers that ended while they computed a micro-shard, by step and micro-shard.
        self._ended: Counter[tuple[int, int]] = Counter()
        self._members: dict[int, _Member] = {}
        self._selector = selectors.DefaultSelector()
        self._door = Doorkeeper(host)
        self._selector.register(self._door, selectors.EVENT_READ)
        self._inbox = Inbox()
        self._selector.register(self._inbox, selectors.EVENT_READ)
        try:
            for worker in range(workers):
                self._start(worker)
            self._await_workers(workers, "starting")
        except BaseException:
            self.close()
            raise

    def _start(self, worker: int) -> None:
        self._launcher.start(worker, self._door.address, self._door.secret)

    def _await_workers(self, wanted: int, doing: str) -> None:
        """Wait until so many workers are connected."""
        deadline = time.monotonic() + START_DEADLINE_S
        while len(self._members) < wanted:
            for _ in self._events(_LOOK_S):
                pass
            for worker in set(range(len(self._lanes))) - set(self._members):
                reason = self._launcher.ended(worker)
                if reason is not None:
                    raise WorkerLost(worker, doing, hint=reason)
            if time.monotonic() > deadline:
                missing = wanted - len(self._members)
                raise ClusterUnreachable(
                    f"{missing} of {len(self._lanes)} workers' processes did not start "
                    f"within {START_DEADLINE_S:.0f} s",
                    hint="ask for fewer workers (cluster.workers) or look at 'ray status'",
                )

    @property
    def pids(self) -> dict[int, int]:
        """The process ids of the workers that are connected."""
        return {worker: member.pid for worker, member in self._members.items()}

    # --- vectors

    def vector(self, like: Array) -> Array:
        """See `Exchange.vector`; every worker of this machine maps it."""
        number = self._free.pop() if self._free else self._new_vector()
        vector = self._vectors[number]
        vector[...] = like
        return vector

    def release(self, vector: Array) -> None:
        """See `Exchange.release`."""
        self._free.extend(n for n, own in enumerate(self._vectors) if own is vector)

    def _new_vector(self) -> int:
        descriptor, vector = memory.create((self._layout.size,), self._dtype)
        number = len(self._vectors)
        self._descriptors.append(descriptor)
        self._vectors.append(vector)
        for member in self._members.values():
            if member.channel.is_local:
                # Whoever is gone is noticed where its end is heard of.
                with contextlib.suppress(ChannelClosed):
                    member.channel.send(NewVector(number), [descriptor])
        return number

    # --- connections

    def _events(self, timeout: float | None) -> Iterator[tuple[int, Message | None]]:
        """What happens within this time: a worker and its message, or None where it is gone."""
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._door:
                for channel in self._door.admitted():
                    self._selector.register(channel, selectors.EVENT_READ)
                continue
            if key.fileobj is self._inbox:
                yield from self._brought()
                continue
            assert isinstance(key.fileobj, Channel)  # noqa: S101 - nothing else is registered
            yield from self._heard(key.fileobj, key.data)

    def _heard(self, channel: Channel, worker: int | None) -> Iterator[tuple[int, Message | None]]:
        try:
            for message in channel.pending():
                if worker is None:
                    worker = self._welcome(channel, expect(Hello, message))
                    if self._members[worker].courier is not None:
                        # The channel is the courier's from here on.
                        yield worker, message
                        return
                elif isinstance(message, NewVector):
                    self._attach(self._members[worker], message.vector)
                    continue
                yield worker, message
        except ChannelClosed:
            self._hang_up(channel)
            if worker is not None:
                del self._members[worker]
                yield worker, None

    def _brought(self) -> Iterator[tuple[int, Message | None]]:
        """What a courier brought."""
        worker, message = self._inbox.take()
        if message is None:
            self._members.pop(worker).hang_up()
        yield worker, message

    def _hang_up(self, channel: Channel) -> None:
        self._selector.unregister(channel)
        channel.close()

    def _welcome(self, channel: Channel, hello: Hello) -> int:
        theirs = Fingerprint(hello.machine, hello.numpy, hello.blas, hello.canary)
        expect_same(self._fingerprint, theirs, hello.worker)
        channel.send(Welcome(len(self._lanes)), [self._claims_memory] if channel.is_local else [])
        if channel.is_local:
            for number, descriptor in enumerate(self._descriptors):
                channel.send(NewVector(number), [descriptor])
        member = self._members[hello.worker] = _Member(channel, hello.pid)
        if channel.is_local:
            self._selector.modify(channel, selectors.EVENT_READ, hello.worker)
        else:
            self._selector.unregister(channel)
            room = functools.partial(self._room, member)
            member.courier = Courier(hello.worker, channel, self._inbox, room)
        return hello.worker

    def _attach(self, member: _Member, number: int) -> None:
        descriptor = member.channel.descriptor()
        try:
            member.vectors[number] = memory.attach(descriptor, (self._layout.size,), self._dtype)
        finally:
            os.close(descriptor)

    def _room(self, member: _Member, message: Message) -> list[Array]:
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
        for number, own in enumerate(self._vectors):
            if own is flat:
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
        if not self._members:
            self._await_workers(1, str(task))
        lanes = {worker: self._lanes[worker] for worker in sorted(self._members)}
        for worker, shards in schedule.start(lanes).items():
            self._ask(step, worker, shards)
        while not schedule.complete:
            for worker, message in self._events(_LOOK_S):
                self._heed(step, worker, message)
            if not self._members:
                self._await_workers(1, str(task))
            self._employ(step)
        return combine(schedule.nodes(), plan.shards, self._blocks).root(plan.rows)

    def _heed(self, step: "_Step", worker: int, message: Message | None) -> None:
        """What a worker's message, or its end, means for the step."""
        if message is None:
            self._lost(step, worker)
        elif isinstance(message, Done) and message.serial == step.serial:
            vectors = self._members[worker].vectors
            step.schedule.deliver(worker, [node_of(node, vectors) for node in message.nodes])
        elif isinstance(message, Failed) and message.serial == step.serial:
            raise ShardFailed(worker, message.shard, str(step.task), message.cause)

    def _employ(self, step: "_Step") -> None:
        """Give work to the workers that have none, as long as there is some."""
        if step.schedule.complete:
            return
        for worker in sorted(set(self._members) - step.schedule.busy):
            shards = step.schedule.next_for(worker)
            if shards is None:
                return
            self._ask(step, worker, shards)

    def _ask(self, step: "_Step", worker: int, shards: range) -> None:
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
        member = self._members[worker]
        if member.courier is not None:
            self._claims.close(worker)
            member.courier.send(message, [self._vectors[step.vector]])
            return
        # Whoever is gone is noticed where its end is heard of.
        with contextlib.suppress(ChannelClosed):
            member.channel.send(message)

    def _lost(self, step: "_Step", worker: int) -> None:
        """A worker ended: the others take over, and another is started in its place."""
        if worker in step.schedule.busy:
            shard = self._claims.begun(worker)
            self._ended[step.serial, shard] += 1
            if self._ended[step.serial, shard] >= _FATAL:
                cause = f"{_FATAL} workers ended while they computed it"
                reason = self._launcher.ended(worker)
                cause += f", the last because {reason}" if reason else ""
                raise ShardFailed(worker, shard, str(step.task), cause)
        step.schedule.lose(worker)
        self._start(worker)

    def close(self) -> None:
        """End the workers' processes."""
        self._door.close()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, Channel):
                self._hang_up(key.fileobj)
        for member in self._members.values():
            if member.courier is not None:
                member.hang_up()
        self._members = {}
        self._selector.close()
        self._inbox.close()
        self._launcher.close()
        self._blocks.close()
        for descriptor in (self._claims_memory, *self._descriptors):
            os.close(descriptor)
        self._descriptors = []


@dataclass(frozen=True)
class _Step:
    """What is being computed."""

    serial: int
    task: Task
    vector: int
    schedule: StepSchedule
