"""Processes that outlive the command that started them: found again, and ended with all of theirs.

What the kernel says of them is read from ``/proc``.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

#: A process that is told to end has so long before it is killed.
STOP_S = 20.0


@dataclass(frozen=True)
class Process:
    """A server of ours.

    Attributes:
        pid: Its process id; it leads a session of its own, which all that it starts belongs to.
        began: Its start as the kernel counts it, so that no other process is taken for it.
    """

    pid: int
    began: int

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return start_of(self.pid) == self.began

    def end(self) -> None:
        """End it and all that it has started, also what has outlived it."""
        # First it alone, which ends its own in their order: one of Ray's waits long for another.
        self._end(signal.SIGTERM, lambda: [self.pid] if self.is_alive else [])
        self._end(signal.SIGTERM, self._session)
        self._end(signal.SIGKILL, self._session)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)

    def _end(self, number: signal.Signals, living: Callable[[], list[int]]) -> None:
        """Send a signal, and wait a while until nobody lives any more whom it was for."""
        for pid in living():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        give_up = time.monotonic() + STOP_S
        while living() and time.monotonic() < give_up:
            with suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)
            time.sleep(0.05)

    def _session(self) -> list[int]:
        """What is alive of its session; nothing where another process has got its number."""
        leader = stat_of(self.pid)
        if leader is not None and leader.began != self.began:
            return []
        found = []
        for place in Path("/proc").glob("[1-9]*"):
            process = stat_of(int(place.name))
            if process is None or process.session != self.pid or process.began < self.began:
                continue
            if process.is_alive:
                found.append(int(place.name))
        return found


def start(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
) -> Process:
    """Start a process in a session of its own.

    Args:
        command: The program and its arguments.
        environment: All that it gets.
        folder: Its current folder.
        log: The file that it writes on.

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
    # One that has died at once is there as long as nobody has asked for its exit code.
    found = stat_of(started.pid)
    return Process(started.pid, found.began if found is not None else 0)


@dataclass(frozen=True)
class Stat:
    """What the kernel says of a process.

    Attributes:
        session: The session that it belongs to.
        began: Its start, in ticks.
        is_alive: Whether it runs, and is not only its remains.
    """

    session: int
    began: int
    is_alive: bool


def stat_of(pid: int) -> Stat | None:
    """What the kernel says of a process; None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name before it may hold anything, also blanks and brackets.
    fields = text.rpartition(")")[2].split()
    return Stat(int(fields[3]), int(fields[19]), is_alive=fields[0] not in "ZX")


def start_of(pid: int) -> int | None:
    """When a process began, in the kernel's ticks; None if there is none, or only its remains."""
    found = stat_of(pid)
    return found.began if found is not None and found.is_alive else None
