"""The process beside training that delivers a run to MLflow.

MLflow takes seconds to import and holds the interpreter's lock, so training has a process of its
own for it. The two send each other tuples over a socket:

- to this process: ``uri`` first; ``run`` with its directory and whether it is resumed; ``tags`` to
  set; ``end``, when the run has ended, with metrics that the disk had no space for.
- from this process: ``busy`` (the next message follows within this number of seconds; the first
  ``busy`` also says that MLflow is imported); ``registered``; ``failed`` with an error; ``warning``
  with a text; and ``finished``, with whether MLflow has everything.
"""

from sumgrad.jobs.support.threads import die_with_parent

if __name__ == "__main__":
    # Before the slow imports.
    die_with_parent()

import gc
import importlib
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from sumgrad.jobs.config.tracking_uri import is_server, sqlite_file
from sumgrad.jobs.errors import TrackingError, TrackingUnreachable
from sumgrad.jobs.support.text import describe_error
from sumgrad.jobs.tracking.delivery import REQUEST_TIMEOUT_S, Delivery
from sumgrad.jobs.tracking.metadata import RunEnd
from sumgrad.jobs.tracking.outbox import Point
from sumgrad.jobs.tracking.store import LOCK_TIMEOUT_S, Store, open_store, prepare_mlflow

SEND_INTERVAL_S = 1.0
MAX_PAUSE_S = 30.0

_logger = logging.getLogger(__name__)


class DeliveryProcess:
    """The delivery of one run, controlled by the training process over a connection."""

    def __init__(self, connection: Connection, open_store: Callable[[str], Store]) -> None:
        self._connection = connection
        self._open_store = open_store
        self._uri = ""
        self._store: Store | None = None
        self._resumed = False
        self._delivery: Delivery | None = None
        self._is_registered = False
        self._tags: dict[str, str] = {}
        self._end: RunEnd | None = None
        self._points: list[Point] = []  #: Metrics that are not in the outbox.
        self._failures = 0  #: Failed attempts in a row.
        self._reported: set[type[TrackingError]] = set()  #: Their kinds that were reported.

    def run(self) -> None:
        """Work until the parent closes the connection."""
        with suppress(EOFError, OSError):
            while True:
                if self._connection.poll(self._pause()):
                    self._receive(*self._connection.recv())
                if self._delivery is not None:
                    self._attempt(self._delivery)

    def send(self, name: str, *values: object) -> None:
        """Send a message to the parent."""
        # Without a parent the next `recv` ends this process.
        with suppress(OSError):
            self._connection.send((name, *values))

    def _pause(self) -> float:
        """Return the seconds until the next attempt: longer after failures, but not at the end."""
        if self._end is not None:
            return SEND_INTERVAL_S
        # The exponent is bounded, because a float overflows.
        return min(SEND_INTERVAL_S * 2.0 ** min(self._failures, 10), MAX_PAUSE_S)

    def _receive(self, name: str, *values: Any) -> None:
        if name == "uri":
            self._prepare(*values)
        elif name == "run":
            directory, self._resumed = values
            self._delivery = Delivery(directory, self._open, partial(self.send, "busy"))
        elif name == "tags":
            self._tags |= values[0]
        elif name == "end":
            self._end, self._points = values

    def _prepare(self, uri: str) -> None:
        """Import MLflow's store and open it, while there is time until the run starts."""
        self._uri = uri
        if not is_server(uri):
            # It takes two seconds, more on a busy machine.
            importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
        database = sqlite_file(uri)
        # Creating a database takes seconds, on a busy machine more than a request may.
        is_new = database is not None and not database.exists()
        self.send("busy", LOCK_TIMEOUT_S if is_new else REQUEST_TIMEOUT_S)
        with suppress(Exception):
            self._store = self._open_store(uri)

    def _open(self) -> Store:
        store, self._store = self._store or self._open_store(self._uri), None
        return store

    def _attempt(self, delivery: Delivery) -> None:
        """Deliver what there is; after a failure the next call repeats it."""
        try:
            self._deliver(delivery)
        except Exception as error:  # noqa: BLE001 - tracking never fails a training run
            self._failures += 1
            if not isinstance(error, TrackingError):
                # An unexpected error counts as an unreachable store.
                error = TrackingUnreachable(describe_error(error))
            if type(error) in self._reported:
                return
            self._reported.add(type(error))
            if self._is_registered:
                line = describe_error(error)
                _logger.warning("metrics cannot be delivered, trying again: %s", line)
            else:
                self.send("failed", error)

    def _deliver(self, delivery: Delivery) -> None:
        if not self._is_registered:
            delivery.register(resumed=self._resumed)
            self._is_registered = True
            self.send("registered")
            # Needed for the model, and there is time now.
            importlib.import_module("mlflow.pyfunc")
        while delivery.send_metrics():
            pass
        delivery.set_tags(self._tags)
        self._tags = {}
        is_complete = None
        if self._end is not None:
            delivery.send_points(self._points)
            is_complete, self._end = delivery.finish(self._end), None
        if self._failures:
            _logger.warning("metrics are delivered again")
            self._failures = 0
            self._reported.clear()
        if is_complete is not None:
            self.send("finished", is_complete)


class _ToParent(logging.Handler):
    """A handler that sends warnings to the parent, which has the terminal."""

    def __init__(self, process: DeliveryProcess) -> None:
        super().__init__(logging.WARNING)
        self._process = process

    def emit(self, record: logging.LogRecord) -> None:
        """Send one warning."""
        self._process.send("warning", record.getMessage())


def connection_from_stdin() -> Connection:
    """Return the connection that this process was given as its standard input."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # The parent handles these, and then has the final status to report.
        signal.signal(number, signal.SIG_IGN)
    # Processes that MLflow may start do not inherit a copy.
    connection = Connection(os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return connection


def main() -> None:
    """Deliver the run of the process that started this one."""
    # What is imported stays; searching it for garbage takes a sixth of the time of the import.
    gc.disable()
    process = DeliveryProcess(connection_from_stdin(), open_store)
    logging.getLogger("sumgrad").addHandler(_ToParent(process))
    prepare_mlflow()
    importlib.import_module("mlflow")
    gc.freeze()
    gc.enable()
    process.run()
    # MLflow's threads are not waited for.
    os._exit(0)


if __name__ == "__main__":
    main()
