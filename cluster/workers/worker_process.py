"""A gradient worker in its own process, controlled by the driver's messages."""

import contextlib
import os
import time
from dataclasses import asdict

import numpy as np

from sumgrad.cluster.compute.fingerprint import compute_fingerprint
from sumgrad.cluster.compute.threads import ThreadedWorker
from sumgrad.cluster.compute.worker import Task, Workload
from sumgrad.cluster.errors import ConnectionClosed, MicrobatchFailed
from sumgrad.cluster.planning.reduction import Node
from sumgrad.cluster.planning.work_stealing import ClaimTable
from sumgrad.cluster.transport import messages
from sumgrad.cluster.transport.connection import Connection
from sumgrad.cluster.transport.handshake import Address, connect
from sumgrad.cluster.transport.shared_memory import attach_received, create
from sumgrad.model.validation import Array

#: A worker polls this many seconds for its next message before it blocks, as long as its recent
#: waits were shorter. A core that sleeps takes 50 to 100 µs to wake, and so does the sender's.
SPIN_S = 0.0005
_NEWEST_WAIT = 0.2  #: Weight of the newest wait in the running mean.


class WorkerProcess:
    """A process that computes for the driver, with one thread for each of its CPUs."""

    def __init__(self, index: int, workload: Workload, threads: int = 1) -> None:
        self._arguments = index, workload, threads

    def serve(self, address: Address, secret: bytes) -> None:
        """Serve the driver at this address until it closes the connection; see `connect`."""
        with contextlib.closing(connect(address, secret)) as connection:
            session = Session(connection, *self._arguments)
            with contextlib.suppress(ConnectionClosed):
                session.run()


class Session:
    """The worker's side of one connection.

    On the driver's machine, parameters and sums are in shared memory and messages name the buffers;
    between machines, they follow the messages.
    """

    def __init__(
        self, connection: Connection, index: int, workload: Workload, threads: int
    ) -> None:
        self._connection = connection
        self._size = workload.network.layout.size
        self._dtype = workload.network.dtype
        self._num_threads = threads
        self._worker = ThreadedWorker(index, workload, threads, self._make_buffer)
        #: Shared with the other workers; None on another machine, which cannot see it.
        self._claims: ClaimTable | None = None
        #: The driver's vectors, by its indices; on another machine one for a copy.
        self._parameters: list[Array] = []
        if not connection.is_local:
            self._parameters.append(np.empty(self._size, self._dtype))
        #: Index and descriptor of buffers that the driver does not know yet.
        self._unannounced: list[tuple[int, int]] = []
        #: The current step, its first microbatch here, and the number of vectors sent for it.
        self._step_id, self._first, self._num_sent = 0, 0, 0
        self._mean_wait = 0.0  #: Running mean of the seconds spent waiting for the driver.

    def run(self) -> None:
        """Introduce the worker, then handle messages until the connection closes."""
        who = self._worker.index, os.getpid(), self._num_threads
        self._connection.send(messages.Hello(*who, asdict(compute_fingerprint())))
        welcome = messages.check_type(messages.Welcome, self._connection.receive())
        if self._connection.is_local:
            table = attach_received(self._connection, (welcome.workers, 2), "int64")
            self._claims = ClaimTable(table)
            for _ in range(welcome.vectors):
                vector = attach_received(self._connection, (self._size,), self._dtype)
                self._parameters.append(vector)
        while True:
            self.handle(self._next_message())

    def _next_message(self) -> messages.Message:
        """Wait for a message; poll for it first if the driver was quick recently."""
        started = time.perf_counter()
        message = self._connection.receive(SPIN_S if self._mean_wait < SPIN_S else 0.0)
        waited = min(time.perf_counter() - started, 10 * SPIN_S)
        self._mean_wait += _NEWEST_WAIT * (waited - self._mean_wait)
        return message

    def handle(self, message: messages.Message) -> None:
        """Compute and reply."""
        request = messages.check_type(messages.Compute, message)
        if self._connection.is_local:
            flat = self._parameters[request.buffer]
        else:
            (flat,) = self._parameters
            self._connection.receive_arrays([flat])
        self._compute(request, flat)

    def _make_buffer(self, index: int) -> Array:
        if not self._connection.is_local:
            return np.empty(self._size, self._dtype)
        descriptor, vector = create((self._size,), self._dtype)
        self._unannounced.append((index, descriptor))
        return vector

    def _compute(self, request: messages.Compute, flat: Array) -> None:
        worker = self._worker
        if request.step_id != self._step_id:
            # The driver has used the sums of the previous step, or does not need them.
            worker.release_all()
            self._step_id, self._first, self._num_sent = request.step_id, request.start, 0
        task = Task(request.kind, request.source, request.epoch, request.step)
        microbatches = range(request.start, request.stop)
        try:
            if self._claims is None:
                nodes = worker.compute(task, microbatches, flat)
            else:
                claimed = self._claims.iter_claimed(worker.index, microbatches)
                nodes = worker.compute_sequentially(task, claimed, flat)
        except MicrobatchFailed as error:
            failed = messages.Failed(request.step_id, error.microbatch, error.cause, error.rows)
            self._connection.send(failed)
        else:
            self._send_sums(request.step_id, nodes)
            # The driver updates the parameters now. The next step starts like this one, and not
            # with microbatches that were stolen from another worker.
            steps = worker.workload.plans[request.source].steps_per_epoch
            worker.prefetch(task.next_step(steps), self._first)

    def _send_sums(self, step_id: int, nodes: list[Node]) -> None:
        while self._unannounced:
            index, descriptor = self._unannounced.pop(0)
            self._connection.send(messages.AttachBuffer(index), [descriptor])
            os.close(descriptor)
        arrays: list[Array] = []
        encoded = [
            messages.encode_node(node, self._buffer_of(node.sum.gradient, arrays)) for node in nodes
        ]
        self._connection.send(messages.Done(step_id, encoded), arrays=arrays)

    def _buffer_of(self, gradient: Array | None, arrays: list[Array]) -> int | None:
        """Return a gradient's buffer index; between machines, also append it to `arrays`."""
        if gradient is None:
            return None
        if self._connection.is_local:
            return self._worker.buffer_index(gradient)
        arrays.append(gradient)
        self._num_sent += 1
        return self._num_sent
