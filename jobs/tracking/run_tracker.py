"""Training's side of the delivery: a child process that is replaced when it dies or freezes."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import psutil

from sumgrad.jobs.errors import TrackingError, TrackingUnreachable
from sumgrad.jobs.support.redaction import redact
from sumgrad.jobs.tracking.metadata import RunEnd
from sumgrad.jobs.tracking.outbox import Point

#: -P keeps modules of the user's folder from shadowing others.
COMMAND = (sys.executable, "-P", "-m", "sumgrad.jobs.tracking.mlflow_process")
#: The process has at most one core; the others are for training.
_ENVIRONMENT = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
START_TIMEOUT_S = 60.0  #: Importing MLflow takes one or two seconds on an idle machine.
RESPONSE_TIMEOUT_S = 10.0  #: How long to wait for a store that acknowledges nothing.
_CHECK_INTERVAL_S = 1.0  #: How often a silent process is checked for being frozen.
_MIN_RESTART_PAUSE_S, _MAX_RESTART_PAUSE_S = 0.5, 30.0

_logger = logging.getLogger(__name__)


class RunTracker:
    """The supervisor of the process that delivers a run to MLflow.

    The process starts at once, because it takes seconds. Methods may be called from any thread.
    Only `wait_until_registered` and `finish` wait for the process, which ``command`` starts.

    The secrets of the store's ``uri`` are sent over a socket, because all users of the machine can
    read command lines. With ``must_answer`` no run starts while the store does not answer.
    """

    def __init__(
        self, uri: str, *, must_answer: bool = False, command: Sequence[str] = COMMAND
    ) -> None:
        self._where = redact(uri)
        self.must_answer = must_answer
        self._command = command
        #: The working directory, which changes for a moment while Ray starts.
        self.folder = Path.cwd()
        #: Guards everything below, and is notified of every change.
        self._changed = threading.Condition(threading.RLock())
        #: Why the store does not accept the run; None if it does, or has not answered yet.
        self.refusal: TrackingError | None = None
        #: Every message to send to a replacement of the process.
        self._messages: dict[str, tuple[object, ...]] = {"uri": ("uri", uri)}
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        #: When the process started, and whether it has sent a message, as it has imported MLflow.
        self._started = time.monotonic()
        self._is_ready = False
        self._is_registered = False
        #: Whether training continues without an answer, so that a late refusal is only a warning.
        self._is_buffering = False
        #: Whether MLflow has everything; None until the process has finished.
        self._is_complete: bool | None = None
        self._deadline = 0.0  #: Until when the process may stay silent while a caller waits.
        self._is_closing = False
        self._thread = threading.Thread(target=self._supervise, name="mlflow", daemon=True)
        self._thread.start()

    def start(self, directory: Path, *, resumed: bool = False) -> None:
        """Have a run delivered from now on; if it is resumed, MLflow shows it as RUNNING again."""
        self._send("run", directory, resumed)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run as soon as MLflow has it; later tags replace earlier ones."""
        self._send("tags", dict(tags))

    def raise_if_refused(self) -> None:
        """Raise the refusal if there is one."""
        if self.refusal is not None:
            raise self.refusal

    def wait_until_registered(self) -> None:
        """Wait until MLflow has the run, or until training may continue without.

        Raise `TrackingUnreachable` if it must answer and does not, `TrackingError` if it refuses.
        """
        timeout = START_TIMEOUT_S if self.must_answer else RESPONSE_TIMEOUT_S
        with self._changed:
            if not self._wait_for(
                lambda: self._is_registered or self._is_buffering or self.refusal is not None,
                timeout,
            ):
                message = f"MLflow at {self._where} has not answered in {timeout:g} s"
                self._on_failure(TrackingUnreachable(message))
            self.raise_if_refused()

    def finish(
        self, end: RunEnd, points: Sequence[Point] = (), timeout: float = RESPONSE_TIMEOUT_S
    ) -> bool:
        """Deliver the rest: metrics, model, tags, status. May be called again with another end.

        Return whether MLflow has everything; if not, the reason is logged. The points are metrics
        that are not in the outbox because the disk is full; the timeout, in seconds, is for a store
        that acknowledges nothing.
        """
        with self._changed:
            self._is_complete = None
            self._send("end", end, list(points))
            if not self._wait_for(
                lambda: self._is_complete is not None or self.refusal is not None, timeout
            ):
                problem = "MLflow at %s has not accepted the rest in %g s"
                _logger.warning(problem, self._where, timeout)
            return bool(self._is_complete)

    def close(self) -> None:
        """Kill the process; `sumgrad sync` delivers what MLflow has not acknowledged."""
        with self._changed:
            self._is_closing = True
            if self._process is not None:
                self._process.kill()
            self._changed.notify_all()
        self._thread.join()

    def _send(self, name: str, *values: object) -> None:
        """Send a message to the process, and keep it for a replacement."""
        with self._changed:
            self._messages[name] = (name, *values)
            if self._connection is not None:
                # A process that has just ended is replaced, and then gets the message.
                with suppress(OSError):
                    self._connection.send(self._messages[name])

    def _wait_for(self, is_done: Callable[[], bool], timeout: float) -> bool:
        """Wait until something is true or the process has acknowledged nothing in time."""
        self._deadline = time.monotonic() + timeout
        if not self._is_ready:
            self._deadline = max(self._deadline, self._started + START_TIMEOUT_S)
        while not is_done():
            left = self._deadline - time.monotonic()
            if left <= 0:
                return False
            self._changed.wait(left)
        return True

    def _supervise(self) -> None:
        """Start the process, and start another when it ends."""
        pause = _MIN_RESTART_PAUSE_S
        while not self._is_closing:
            try:
                self._run_process()
            except OSError as error:
                _logger.warning("no process for MLflow can be started: %s", error.strerror)
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing, pause)
            pause = min(2 * pause, _MAX_RESTART_PAUSE_S)

    def _run_process(self) -> None:
        """Run one process until it ends; raise OSError if it cannot be started."""
        ours, theirs = Pipe()
        with ours:
            # On Linux the process is killed when the thread that started it ends: this one.
            with theirs:
                process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                    self._command,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    cwd=self.folder,
                    env=os.environ | _ENVIRONMENT,
                )
            try:
                # Its end, and a message that is none, which can be an error of any kind.
                with suppress(Exception):
                    with self._changed:
                        self._process, self._connection = process, ours
                        self._started, self._is_ready = time.monotonic(), False
                        for message in self._messages.values():
                            ours.send(message)
                    while True:
                        self._receive_one(ours, process)
            finally:
                with self._changed:
                    self._connection = None
                process.kill()
                process.wait()

    def _receive_one(self, connection: Connection, process: "subprocess.Popen[bytes]") -> None:
        while not connection.poll(_CHECK_INTERVAL_S):
            # A frozen process holds the database's lock.
            is_frozen = psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
            if is_frozen or self._is_closing:
                process.kill()
        name, *values = connection.recv()
        with self._changed:
            self._on_message(name, *values)
            self._changed.notify_all()

    def _on_message(self, name: str, *values: Any) -> None:
        if name == "busy":
            self._is_ready = True
            self._deadline = time.monotonic() + values[0]
        elif name == "registered":
            self._is_registered = True
        elif name == "failed" and not self._is_registered and self.refusal is None:
            self._on_failure(*values)
        elif name == "warning":
            _logger.warning("%s", *values)
        elif name == "finished":
            (self._is_complete,) = values

    def _on_failure(self, error: TrackingError) -> None:
        """Handle a failure to register the run; the first decides whether training continues."""
        is_refusal = not isinstance(error, TrackingUnreachable)
        if self._is_buffering:
            if is_refusal:
                _logger.warning("MLflow refuses the run; training continues: %s", error.message)
        elif self.must_answer or is_refusal:
            self.refusal = error
        else:
            self._is_buffering = True
            effect = "training continues, and everything is kept for MLflow"
            option = "(tracking.on_unavailable=fail refuses to start)"
            _logger.warning("%s; %s %s", error.message, effect, option)
