"""A gradient worker in a process of its own, doing what the driver's messages say."""

import contextlib
import os
import time
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sumgrad.cluster.compute.fingerprint import compute_fingerprint
from sumgrad.cluster.compute.threads import ThreadedWorker
from sumgrad.cluster.compute.worker import Task, Workload
from sumgrad.cluster.errors import ConnectionClosed, MicrobatchFailed
from sumgrad.cluster.planning.reduction import Node
from sumgrad.cluster.planning.work_stealing import ClaimTable
from sumgrad.cluster.transport import memfd as memory
from sumgrad.cluster.transport.connection import Address, connect
from sumgrad.cluster.transport.messages import (
    AttachBuffer,
    Compute,
    Done,
    Failed,
    Hello,
    Message,
    Welcome,
    describe,
    expect,
)
from sumgrad.model.validation import Array

#: A worker looks for its next message for so many seconds before it sleeps, as long as its waits
#: have been shorter of late. A core that sleeps takes 50 to 100 µs to wake, of the sender too.
LOOK_S = 0.0005
#: Weight of the newest wait.
_NEWEST_WAIT = 0.2


class WorkerProcess:
    """Connects to the driver and serves it until one of them ends.

    On the driver's machine, parameters and sums are in memory that both share, and messages say
    where; on another, they travel with the messages.

    Args:
        index: The worker's number.
        workload: Network, rows and plans.
        lanes: How many threads compute; on the driver's machine one.
    """

    def __init__(self, index: int, workload: Workload, lanes: int = 1) -> None:
        self._worker = ThreadedWorker(index, workload, lanes, self._new_vector)
        self._lanes = lanes
        self._size = workload.network.layout.size
        self._dtype = workload.network.dtype
        #: The step that is being computed, and how many vectors have travelled for it.
        self._step_id, self._travelled = 0, 0
        #: Seconds that the driver has let us wait of late.
        self._usual_wait = 0.0

    def serve(self, address: Address, secret: bytes) -> None:
        """Serve the driver at this address until it closes the connection.

        Raises:
            ConnectionClosed: Nobody is there.
            AuthenticationError: Whoever is there does not know the job's secret.
        """
        self._channel = channel = connect(address, secret)
        #: The driver's vectors, by its numbers; of another machine's driver a copy of the last.
        self._parameters: dict[int, Array] = {}
        #: Our vectors that the driver has not been told of: number and descriptor.
        self._untold: list[tuple[int, int]] = []
        arithmetic = asdict(compute_fingerprint())
        with contextlib.closing(channel), contextlib.suppress(ConnectionClosed):
            channel.send(Hello(self._worker.index, os.getpid(), self._lanes, **arithmetic))
            welcome = expect(Welcome, channel.receive())
            #: Ours and the others'; None on another machine, where nobody sees them.
            self._claims: ClaimTable | None = None
            if channel.is_local:
                self._claims = ClaimTable(self._attach((welcome.claims, 2), "int64"))
            while True:
                self._heed(self._next_message())

    def _next_message(self) -> Message:
        """Wait for the driver: awake if it has been quick of late, as waking up takes longer."""
        began = time.perf_counter()
        message = self._channel.receive(LOOK_S if self._usual_wait < LOOK_S else 0.0)
        waited = min(time.perf_counter() - began, 10 * LOOK_S)
        self._usual_wait += _NEWEST_WAIT * (waited - self._usual_wait)
        return message

    def _heed(self, message: Message) -> None:
        if isinstance(message, AttachBuffer):
            self._parameters[message.vector] = self._attach((self._size,), self._dtype)
            return
        asked = expect(Compute, message)
        if not self._channel.is_local:
            self._receive_parameters(asked.vector)
        self._compute(asked)

    def _receive_parameters(self, number: int) -> None:
        held = self._parameters.popitem()[1] if self._parameters else None
        vector = np.empty(self._size, self._dtype) if held is None else held
        self._channel.receive_numbers([vector])
        self._parameters[number] = vector

    def _attach(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        descriptor = self._channel.descriptor()
        try:
            return memory.attach(descriptor, shape, dtype)
        finally:
            os.close(descriptor)

    def _new_vector(self, number: int) -> Array:
        if not self._channel.is_local:
            return np.empty(self._size, self._dtype)
        descriptor, vector = memory.create((self._size,), self._dtype)
        self._untold.append((number, descriptor))
        return vector

    def _compute(self, asked: Compute) -> None:
        worker = self._worker
        if asked.step_id != self._step_id:
            # The driver has no use for sums of a step that is over.
            worker.release_all()
            self._step_id, self._travelled = asked.step_id, 0
        task = Task(asked.kind, asked.source, asked.epoch, asked.step)
        shards, flat = range(asked.start, asked.stop), self._parameters[asked.vector]
        try:
            if self._claims is None:
                nodes = worker.compute(task, shards, flat)
            else:
                claimed = self._claims.iter_claimed(worker.index, shards)
                nodes = worker.compute_sequentially(task, claimed, flat)
        except MicrobatchFailed as failure:
            self._channel.send(
                Failed(asked.step_id, failure.microbatch, failure.cause, failure.rows)
            )
        else:
            self._deliver(asked.step_id, nodes)
            # The driver is busy with the update now.
            steps = worker.workload.plans[asked.source].steps_per_epoch
            worker.prefetch(task.next_step(steps), asked.start)

    def _deliver(self, step_id: int, nodes: list[Node]) -> None:
        while self._untold:
            number, descriptor = self._untold.pop(0)
            self._channel.send(AttachBuffer(number), [descriptor])
            os.close(descriptor)
        travelling: list[Array] = []
        told = [describe(node, self._place(node.sum.gradient, travelling)) for node in nodes]
        self._channel.send(Done(step_id, told), numbers=travelling)

    def _place(self, gradient: Array | None, travelling: list[Array]) -> int | None:
        """The number of a gradient's vector, by which the driver finds it, or will keep it."""
        if gradient is None:
            return None
        if self._channel.is_local:
            return self._worker.buffer_index(gradient)
        travelling.append(gradient)
        self._travelled += 1
        return self._travelled
