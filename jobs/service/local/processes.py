"""Server processes that outlive the command that started them."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import psutil
from pydantic import Field
from pydantic.dataclasses import dataclass

from sumgrad.jobs.support.polling import wait_until

#: Seconds that a process has to end after SIGTERM, before it is killed.
STOP_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class ServerProcess:
    """The leader of a session, to which everything that it starts belongs.

    Attributes:
        pid: Its process id.
        started: Seconds from the machine's boot to its start; a later process with the same id has
            another start.
    """

    # The ids below address groups of processes, or init.
    pid: Annotated[int, Field(gt=1)]
    started: float

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return start_time(self.pid) == self.started

    def terminate(self) -> None:
        """End it and everything that it has started, including what has outlived it."""
        # The leader first and alone: Ray's ends its own processes in their order.
        self._signal(psutil.Process.terminate, lambda: [self.pid] if self.is_alive else [])
        self._signal(psutil.Process.terminate, self._session)
        self._signal(psutil.Process.kill, self._session)
        self._reap()

    def _signal(
        self, send: Callable[[psutil.Process], None], find_running: Callable[[], list[int]]
    ) -> None:
        """Signal processes, and wait until they have ended or the time is up."""
        for pid in find_running():
            with suppress(psutil.Error):
                send(psutil.Process(pid))

        def have_ended() -> bool:
            self._reap()
            return not find_running()

        wait_until(have_ended, STOP_TIMEOUT_S)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)

    def _session(self) -> list[int]:
        """Return the running processes of the session; none if its id belongs to a later one."""
        leader = start_time(self.pid)
        if leader is not None and leader != self.started:
            return []
        return [pid for pid in psutil.pids() if _session_id(pid) == self.pid and _is_running(pid)]


def start_process(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
) -> ServerProcess:
    """Start a process as the leader of a new session, and append its output to a log.

    Raises:
        OSError: It cannot be started.
    """
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
    return _since_boot(psutil.Process(pid)) if _is_running(pid) else None


def _since_boot(process: psutil.Process) -> float:
    # psutil adds the boot time, which changes when the clock is set.
    return round(process.create_time() - psutil.boot_time(), 2)


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False


def _session_id(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None
