"""A gradient worker in a process of its own, doing what the driver's messages say."""

import os
from dataclasses import asdict
from typing import Any

from numpy.typing import NDArray

from cluster import memory
from cluster.channel import Channel, connect
from cluster.errors import ChannelClosed, ShardFailed
from cluster.messages import Compute, Done, Failed, Hello, NewVector, Welcome, describe, expect
from cluster.schedule import Claims
from cluster.worker import GradientWorker, Task, Workload
from model.checks import Array


class ServingWorker:
    """Connects to the driver and serves it until one of them ends.

    Parameters and sums are in memory that both share; messages say where.

    Args:
        index: The worker's number.
        workload: Network, rows and plans.
    """

    def __init__(self, index: int, workload: Workload) -> None:
        self._worker = GradientWorker(index, workload, self._new_vector)
        self._size = workload.network.layout.size
        self._dtype = workload.network.dtype
        #: The driver's vectors, by its numbers.
        self._parameters: dict[int, Array] = {}
        #: Our vectors that the driver has not been told of: number and descriptor.
        self._untold: list[tuple[int, int]] = []
        self._serial = 0

    def serve(self, address: str, secret: bytes) -> None:
        """Serve the driver at this address until it closes the connection.

        Raises:
            Intruder: Whoever is there does not know the job's secret.
        """
        channel = connect(address, secret)
        arithmetic = asdict(self._worker.fingerprint())
        try:
            channel.send(Hello(self._worker.index, os.getpid(), **arithmetic))
            welcome = expect(Welcome, channel.receive())
            claims = Claims(self._attach(channel, (welcome.claims, 2), "int64"))
            while True:
                message = channel.receive()
                if isinstance(message, NewVector):
                    vector = self._attach(channel, (self._size,), self._dtype)
                    self._parameters[message.vector] = vector
                else:
                    self._compute(channel, claims, expect(Compute, message))
        except ChannelClosed:
            return
        finally:
            channel.close()

    def _attach(self, channel: Channel, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        descriptor = channel.descriptor()
        try:
            return memory.attach(descriptor, shape, dtype)
        finally:
            os.close(descriptor)

    def _new_vector(self, number: int) -> Array:
        descriptor, vector = memory.create((self._size,), self._dtype)
        self._untold.append((number, descriptor))
        return vector

    def _compute(self, channel: Channel, claims: Claims, asked: Compute) -> None:
        worker = self._worker
        if asked.serial != self._serial:
            # The driver has no use for sums of a step that is over.
            worker.vectors.give_back_all()
            self._serial = asked.serial
        task = Task(asked.kind, asked.source, asked.epoch, asked.step)
        shards = claims.claimed(worker.index, range(asked.start, asked.stop))
        try:
            nodes = worker.compute(task, shards, self._parameters[asked.vector])
        except ShardFailed as failure:
            channel.send(Failed(asked.serial, failure.shard, failure.cause))
            return
        while self._untold:
            number, descriptor = self._untold.pop(0)
            channel.send(NewVector(number), [descriptor])
            os.close(descriptor)
        told = [
            describe(node, None if (g := node.sum.gradient) is None else worker.vectors.number(g))
            for node in nodes
        ]
        channel.send(Done(asked.serial, told))
