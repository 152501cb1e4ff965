"""The process that has MLflow, as the one that started it sees it."""

import itertools
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sumgrad.jobs.errors import TrackingUnreachable
from sumgrad.jobs.tracking.messages import request_line, settle

#: It has a core of its own at best, and those of the training are not for its matrices.
_ENVIRONMENT = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
#: Met by us: a signal to the whole foreground group must not keep it from telling the last status.
_OURS = (signal.SIGINT, signal.SIGTERM)
#: How long it may take to end when it is told to, before it is killed.
END_SECONDS = 1.0


class Child:
    """One process, and what it was asked. It ends when nobody holds our end of its socket.

    Args:
        command: Runs `sumgrad.jobs.tracking.mlflow_process`, or something that speaks as it does.
        folder: Its current folder.

    Raises:
        OSError: It could not be started.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        # Not inherited by anybody else, Ray's processes among them: with a copy of our end
        # somewhere the child would outlive us.
        self._socket, theirs = socket.socketpair()
        try:
            with theirs, _held_back(_OURS):
                self._process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                    command,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    cwd=folder,
                    env=os.environ | _ENVIRONMENT,
                )
        except BaseException:
            self._socket.close()
            raise
        self._numbers = itertools.count()
        self._sending = threading.Lock()
        #: Guards the two below. Nothing is waited for any more once it has ended.
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[Any]] = {}
        self._has_ended = False
        self._listener = threading.Thread(target=self._listen, name="mlflow", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it is known to have ended."""
        return self._has_ended

    def ask(self, method: str, params: Mapping[str, Any]) -> "Future[Any]":
        """Ask something; see `sumgrad.jobs.tracking.messages.perform`.

        Returns:
            The answer. It is an error of ours if the process ends before that.
        """
        answer: Future[Any] = Future()
        number = next(self._numbers)
        with self._lock:
            if self._has_ended:
                answer.set_exception(_gone())
                return answer
            self._waiting[number] = answer
        # One that has just ended takes nothing, which is found out by listening to it.
        with suppress(OSError), self._sending:
            self._socket.sendall(request_line(number, method, params))
        return answer

    def _listen(self) -> None:
        # A reply that is none, or is cut, is the last one.
        with (
            suppress(OSError, ValueError, LookupError, TypeError),
            self._socket.makefile("rb") as lines,
        ):
            for line in lines:
                reply = json.loads(line)
                settle(self._waiting[reply["id"]], reply)
                with self._lock:
                    del self._waiting[reply["id"]]
        # Who says nothing any more has ended, or is of no use.
        self._process.kill()
        self._process.wait()
        with self._lock:
            self._has_ended = True
            unanswered = list(self._waiting.values())
        for answer in unanswered:
            answer.set_exception(_gone())

    def end(self) -> None:
        """Have it end, whatever it is doing; waits until it has. May be called again."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        # Whoever else may have a copy of its end is not listened to.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)
        self._listener.join()
        self._socket.close()


def _gone() -> TrackingUnreachable:
    return TrackingUnreachable("the process that talks to MLflow has ended")


@contextmanager
def _held_back(numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """Signals that wait meanwhile, and in what is started until it can say what to do with them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
