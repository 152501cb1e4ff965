"""Server processes that outlive the command that started them."""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import psutil
from pydantic import Field
from pydantic.dataclasses import dataclass

from sumgrad.jobs.support.polling import wait_until

STOP_TIMEOUT_S = 20.0  #: Seconds that a process has to end after SIGTERM, before it is killed.


@dataclass(frozen=True)
class ServerProcess:
    """A server process that leads its own session; `terminate` ends the whole session."""

    #: An id of more than 1: the other ones address groups of processes, or init.
    pid: Annotated[int, Field(gt=1)]
    #: Seconds from boot to its start, which a later process with the same id does not share.
    started: float

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return start_time(self.pid) == self.started

    def terminate(self) -> None:
        """End it and everything that it has started, including what has outlived it."""
        # The leader first and alone: Ray's ends its own processes in their order.
        self._end(signal.SIGTERM, lambda: [self.pid] if self.is_alive else [])
        self._end(signal.SIGTERM, self._session)
        self._end(signal.SIGKILL, self._session)

    def _end(self, number: int, find_running: Callable[[], list[int]]) -> None:
        """Signal processes, and wait until they have ended or the time is up."""
        for pid in find_running():
            with suppress(OSError):
                os.kill(pid, number)

        def have_ended() -> bool:
            running = find_running()
            # Reap the leader, if it is a child of this process.
            with suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)
            return not running

        wait_until(have_ended, STOP_TIMEOUT_S)

    def _session(self) -> list[int]:
        """Return the running processes of the session; none if its id belongs to a later one."""
        if start_time(self.pid) not in (None, self.started):
            return []
        return [pid for pid in psutil.pids() if _session_id(pid) == self.pid and start_time(pid)]


def start_process(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
) -> ServerProcess:
    """Start a process as the leader of a new session, and append its output to a log."""
    with log.open("ab") as file:
        started = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    # A process that ended at once remains as a zombie, with its start time, until it is reaped.
    return ServerProcess(started.pid, _since_boot(psutil.Process(started.pid)))


def start_time(pid: int) -> float | None:
    """Return when a running process started, in seconds since boot; None if there is none."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return _since_boot(process)
    return None


def _since_boot(process: psutil.Process) -> float:
    # psutil adds the boot time, which changes when the clock is set.
    return round(process.create_time() - psutil.boot_time(), 2)


def _session_id(pid: int) -> int | None:
    with suppress(OSError):
        return os.getsid(pid)
    return None
