"""The operations on runs, performed by a process of its own, so that training has one to itself.

MLflow takes seconds to import and to open a store, and holds the interpreter's lock meanwhile.
"""

import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, astuple
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sumgrad.jobs.errors import TrackingUnreachable
from sumgrad.jobs.tracking.child_process import Child
from sumgrad.jobs.tracking.client import RunDescription, RunRef, Status
from sumgrad.jobs.tracking.outbox import Point

#: -P: the user's folder may have modules of the same names as ours, and is no place to look.
COMMAND = (sys.executable, "-P", "-m", "sumgrad.jobs.tracking.mlflow_process")
#: Importing MLflow takes one or two on a quiet machine.
START_SECONDS = 60.0


class ProcessClient:
    """See `TrackingClient`. The process is started at once, and imports MLflow and opens the store.

    One that has ended, whatever it died of, is as a server that went away: what was asked of it
    fails with `TrackingUnreachable`, and the next question starts another.

    Args:
        uri: Resolved, with its secrets: told to the process over its socket, for everybody can
            read a command line.
        command: What to start; for tests.
    """

    def __init__(self, uri: str, *, command: Sequence[str] = COMMAND) -> None:
        self._uri = uri
        self._command = command
        # The current folder is another one for a moment while Ray starts.
        self._folder = Path.cwd()
        #: Guards the two below.
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._is_closed = False
        with suppress(TrackingUnreachable):
            self._living()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Of the process; None if none was started."""
        return self._child.pid if self._child is not None else None

    def close(self) -> None:
        """End the process; what it has not answered is not waited for."""
        with self._lock:
            self._is_closed = True
            child = self._child
        if child is not None:
            child.end()

    def prepare(self) -> None:
        """See `TrackingClient.prepare`."""
        try:
            self._asked("prepare").result(START_SECONDS)
        except TimeoutError:
            message = f"MLflow has not been imported in {START_SECONDS:g} s"
            raise TrackingUnreachable(message) from None

    def create_run(self, run: RunDescription, *, may_exist: bool) -> RunRef:
        """See `TrackingClient.create_run`."""
        return RunRef(**self._ask("create_run", run=asdict(run), may_exist=may_exist))

    def get_run(self, run_id: str) -> RunRef:
        """See `TrackingClient.get_run`."""
        return RunRef(**self._ask("get_run", run_id=run_id))

    def log_metrics(self, run_id: str, points: Sequence[Point]) -> None:
        """See `TrackingClient.log_metrics`."""
        self._ask("log_metrics", run_id=run_id, points=[astuple(point) for point in points])

    def log_model(self, run_id: str, folder: Path, example: Path, step: int) -> str:
        """See `TrackingClient.log_model`."""
        paths = {"folder": str(folder.absolute()), "example": str(example.absolute())}
        return str(self._ask("log_model", run_id=run_id, step=step, **paths))

    def end_run(self, run_id: str, tags: Mapping[str, str], status: Status) -> None:
        """See `TrackingClient.end_run`."""
        self._ask("end_run", run_id=run_id, tags=dict(tags), status=status)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """See `TrackingClient.set_tags`."""
        self._ask("set_tags", run_id=run_id, tags=dict(tags))

    def continue_run(self, run_id: str) -> None:
        """See `TrackingClient.continue_run`."""
        self._ask("continue_run", run_id=run_id)

    def _ask(self, method: str, **params: Any) -> Any:
        return self._asked(method, **params).result()

    def _asked(self, method: str, **params: Any) -> "Future[Any]":
        return self._living().ask(method, params)

    def _living(self) -> Child:
        """A process that is not known to have ended.

        Raises:
            TrackingUnreachable: None can be started now.
        """
        with self._lock:
            if self._is_closed:
                raise TrackingUnreachable("the process that talks to MLflow was ended")
            if self._child is None or self._child.has_ended:
                if self._child is not None:
                    self._child.end()
                try:
                    self._child = Child(self._command, self._folder)
                except OSError as error:
                    why = error.strerror or str(error)
                    message = f"no process to talk to MLflow can be started: {why}"
                    raise TrackingUnreachable(message) from error
                self._child.ask("open", {"uri": self._uri})
            return self._child
