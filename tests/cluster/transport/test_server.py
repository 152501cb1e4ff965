"""Connections to workers on other machines."""

import select
import threading
from contextlib import closing

import pytest

from sumgrad.cluster.transport.connection import Connection
from sumgrad.cluster.transport.messages import Hello, Message
from sumgrad.cluster.transport.selectable_queue import SelectableQueue
from sumgrad.cluster.transport.server import Reply, WorkerConnection
from tests.cluster.transport.test_connection import connect_by_tcp
from tests.cluster.transport.test_messages import MESSAGES


def test_items_that_were_not_consumed_stay_in_the_queue() -> None:
    with closing(SelectableQueue[int]()) as queue:
        queue.put(1)
        queue.put(2)
        for item in queue.drain():
            assert item == 1
            break
        assert select.select([queue], [], [], 10)[0]
        assert list(queue.drain()) == [2]
        assert not select.select([queue], [], [], 0)[0]


def test_a_remote_worker_whose_thread_fails_is_reported_as_disconnected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After any error, or the driver would wait for a worker that is not read any more."""
    failed = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: failed.set())

    def handle(message: Message) -> None:
        raise MemoryError

    hello = MESSAGES[0]
    assert isinstance(hello, Hello)
    left, right = map(Connection, connect_by_tcp())
    received: SelectableQueue[tuple[WorkerConnection, Reply | None]] = SelectableQueue()
    worker = WorkerConnection(right, hello, 3, "float32")
    with closing(left), closing(worker), closing(received):
        worker.handle = handle  # type: ignore[method-assign]
        worker.start_threads(received)
        left.send(MESSAGES[1])
        assert select.select([received], [], [], 10)[0], "no disconnect is reported"
        assert list(received.drain()) == [(worker, None)]
        assert failed.wait(10)


def test_the_threads_of_a_remote_worker_have_ended_when_its_connection_is_closed() -> None:
    """Otherwise they could use the descriptor when its number belongs to another file."""
    hello = MESSAGES[0]
    assert isinstance(hello, Hello)
    left, right = map(Connection, connect_by_tcp())
    received: SelectableQueue[tuple[WorkerConnection, Reply | None]] = SelectableQueue()
    worker = WorkerConnection(right, hello, 3, "float32")
    with closing(left), closing(received):
        worker.start_threads(received)
        running: list[str] = []
        close = right.close

        def close_and_record() -> None:
            running.extend(thread.name for thread in threading.enumerate())
            close()

        right.close = close_and_record  # type: ignore[method-assign]
        worker.close()
    assert running
    assert f"worker-{hello.worker}" not in running
