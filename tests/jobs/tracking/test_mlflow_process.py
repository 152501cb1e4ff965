"""What the delivering process does with messages from its parent, in a thread of the test."""

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import pytest

from sumgrad.jobs.errors import LoginRefused, TrackingError, TrackingUnreachable
from sumgrad.jobs.tracking import mlflow_process
from sumgrad.jobs.tracking.mlflow_process import DeliveryProcess
from sumgrad.jobs.tracking.outbox import Outbox, Point
from sumgrad.jobs.tracking.store import LOCK_TIMEOUT_S, Store
from tests.jobs.tracking.conftest import FINISHED, KILLED


class Parent:
    """The other end of the connection.

    Args:
        connection: To the service.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, name: str, *values: object) -> None:
        self._connection.send((name, *values))

    def receive(self, name: str) -> Any:
        """Return the value of the next message with a name; others are skipped."""
        while self._connection.poll(60):
            found, *values = self._connection.recv()
            if found == name:
                return next(iter(values), True)
        raise AssertionError(f"no message '{name}'")


class Stores:
    """Opens the store as often as it may."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.error: Exception | None = None
        self.opened = 0

    def open(self, uri: str) -> Store:
        self.opened += 1
        if self.error is not None:
            raise self.error
        return self.store


@pytest.fixture
def stores(store: Store) -> Stores:
    return Stores(store)


@pytest.fixture
def parent(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parent]:
    monkeypatch.setattr(mlflow_process, "SEND_INTERVAL_S", 0.01)
    ours, theirs = Pipe()
    thread = threading.Thread(target=DeliveryProcess(theirs, stores.open).run)
    thread.start()
    yield Parent(ours)
    ours.close()
    thread.join(30)
    assert not thread.is_alive(), "it ends with the connection"


def test_a_run_is_delivered_as_it_grows(
    parent: Parent,
    stores: Stores,
    run: Path,
    outbox: Outbox,
    mlflow_id: Callable[[], str],
) -> None:
    client = stores.store.client
    parent.send("uri", "sqlite:///x.db")
    parent.send("run", run, False)
    assert parent.receive("registered")
    outbox.log(1, {"loss": 0.5})
    parent.send("tags", {"heartbeat": "1"})
    while not client.get_metric_history(mlflow_id(), "loss"):
        parent.receive("busy")
    parent.send("end", FINISHED, [Point("loss", 0.25, 2, 1000)])
    assert parent.receive("finished")
    found = client.get_run(mlflow_id())
    assert found.info.status == "FINISHED"
    assert found.data.tags["heartbeat"] == "1"
    assert found.data.metrics == {"loss": 0.25}
    assert stores.opened == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TrackingUnreachable("away", hint="wait"), TrackingUnreachable("away", hint="wait")),
        (LoginRefused("no", hint="log in"), LoginRefused("no", hint="log in")),
        (ZeroDivisionError("http://me:s3cr3t@x"), TrackingUnreachable("http://***@x")),
    ],
)
def test_the_first_failure_is_reported_and_later_attempts_succeed(
    parent: Parent,
    stores: Stores,
    run: Path,
    outbox: Outbox,
    error: Exception,
    expected: TrackingError,
) -> None:
    stores.error = error
    parent.send("uri", "sqlite:///x.db")
    parent.send("run", run, False)
    failed = parent.receive("failed")
    assert type(failed) is type(expected)
    assert (failed.message, failed.hint) == (expected.message, expected.hint)
    stores.error = None
    parent.send("end", KILLED, [])
    assert parent.receive("finished")


def test_a_refusal_after_an_outage_is_reported(
    parent: Parent, stores: Stores, run: Path, outbox: Outbox
) -> None:
    stores.error = TrackingUnreachable("away")
    parent.send("uri", "sqlite:///x.db")
    parent.send("run", run, False)
    assert parent.receive("failed").message == "away"
    stores.error = LoginRefused("no")
    assert parent.receive("failed").message == "no"


def test_garbage_is_collected_once_mlflow_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[bool] = []
    monkeypatch.setattr(mlflow_process, "connection_from_stdin", lambda: Pipe()[0])
    monkeypatch.setattr(DeliveryProcess, "run", lambda _: states.append(gc.isenabled()))
    monkeypatch.setattr("os._exit", lambda _: None)
    monkeypatch.setattr(logging.getLogger("sumgrad"), "handlers", [])
    try:
        mlflow_process.main()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.enable()
    assert states == [True]


def test_the_parent_waits_longer_while_a_database_is_created(
    parent: Parent, tmp_path: Path
) -> None:
    parent.send("uri", f"sqlite:///{tmp_path}/new.db")
    assert parent.receive("busy") == LOCK_TIMEOUT_S


def test_an_outage_is_logged_once_and_so_is_its_end(
    parent: Parent,
    stores: Stores,
    run: Path,
    outbox: Outbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    parent.send("uri", "sqlite:///x.db")
    parent.send("run", run, False)
    parent.receive("registered")
    failures = threading.Semaphore(0)
    client = stores.store.client

    def away(*_: object, **__: object) -> None:
        failures.release()
        raise OSError("away")

    with monkeypatch.context() as gone:
        gone.setattr(client, "log_batch", away)
        outbox.log(1, {"loss": 0.5})
        for _ in range(3):
            assert failures.acquire(timeout=60)
    parent.send("end", FINISHED, [])
    assert parent.receive("finished")
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith("metrics cannot be delivered, trying again: ")
    assert caplog.messages[1] == "metrics are delivered again"
