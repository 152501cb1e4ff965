"""Notices Ray daemons that have died or are suspended while the driver waits for them.

Calls into Ray's C++ core may wait for such a daemon for minutes or forever, or end the process.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import ClassVar, TypeVar

import psutil

from sumgrad.cluster.address import check_reachable
from sumgrad.cluster.errors import ClusterUnreachable

T = TypeVar("T")

_POLL_S = 0.1  #: Polling interval of the daemons in seconds.
_DAEMONS = ("gcs_server", "raylet")  #: Ray's daemons on this machine, by process name.
_EXITED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
#: Seconds for which a daemon has to be suspended; after Ctrl-Z it continues with the driver.
_SUSPENDED_S = 2.0
_PROBE_INTERVAL_S = 5.0  #: Seconds between two connections to a cluster's head.
_MAX_FAILED_PROBES = 2  #: How many of these in a row have to fail.
_RETRY_INTERVAL_S = 1.0  #: Seconds to the next one after a failure; Ray itself prints after 30.


class RayStalled(ClusterUnreachable):
    """A call into Ray does not return; its thread still waits for it."""


def run_watched(
    call: Callable[[], T],
    failure: Callable[[], str | None],
    *,
    keep_thread: threading.Event | None = None,
) -> T:
    """Run a call into Ray in another thread and return its result.

    `failure` is polled; it returns why the call will never return, which is raised, or None. The
    thread stays alive until `keep_thread` is set, because the operating system ends the daemons
    that were started in a thread together with that thread.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised in the calling thread
            result.set_exception(error)
        if keep_thread is not None:
            keep_thread.wait()

    threading.Thread(target=run, name="ray-call", daemon=True).start()
    while not wait([result], timeout=_POLL_S).done:
        reason = failure()
        if reason is not None and not result.done():
            raise RayStalled(reason)
    return result.result()


class DaemonWatch:
    """A watch of the daemons that a session of this process starts."""

    #: The watch of the current session, if that started the Ray instance itself.
    current: ClassVar["DaemonWatch | None"] = None

    def __init__(self) -> None:
        #: Children that earlier sessions have left, or that belong to another cluster.
        self._ignored = {child.pid for child in psutil.Process().children()}
        self._daemons: dict[str, psutil.Process] = {}
        #: Seconds for which each daemon has been suspended, as far as this process was running.
        self._suspended: dict[str, float] = dict.fromkeys(_DAEMONS, 0.0)
        self._last = time.monotonic()

    def failure(self) -> str | None:
        """Return which daemon has exited or is suspended, or None."""
        now = time.monotonic()
        elapsed, self._last = min(now - self._last, 1.0), now
        for name, status in self._statuses().items():
            is_suspended = status == psutil.STATUS_STOPPED
            self._suspended[name] = self._suspended[name] + elapsed if is_suspended else 0.0
            if self._suspended[name] > _SUSPENDED_S:
                return f"Ray's {name} on this machine is suspended"
        return self.exited()

    def exited(self) -> str | None:
        """Return which daemon has exited, or None."""
        for name, status in self._statuses().items():
            if status in _EXITED:
                return f"Ray's {name} on this machine has exited"
        return None

    def blocks_shutdown(self) -> bool:
        """Return whether a shutdown of Ray would wait for a daemon that does not answer."""
        statuses = self._statuses()
        is_suspended = psutil.STATUS_STOPPED in statuses.values()
        return is_suspended or statuses.get("gcs_server") in _EXITED

    def _statuses(self) -> dict[str, str]:
        if len(self._daemons) < len(_DAEMONS):
            for child in psutil.Process().children():
                name = _read(child.name)
                if name in _DAEMONS and child.pid not in self._ignored:
                    self._daemons.setdefault(name, child)
        return {
            name: _read(process.status) or psutil.STATUS_DEAD
            for name, process in self._daemons.items()
        }


def _read(attribute: Callable[[], str]) -> str:
    """Return an attribute of a process, or the empty string if the process is gone."""
    try:
        return attribute()
    except psutil.Error:
        return ""


class HeadWatch:
    """A watch of the head of a cluster, given its host and port."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._next_probe = time.monotonic() + _PROBE_INTERVAL_S
        self._failed = 0

    def failure(self) -> str | None:
        """Return that the head does not answer any more, or None."""
        if time.monotonic() < self._next_probe:
            return None
        try:
            check_reachable(self._address)
        except ClusterUnreachable as error:
            self._failed += 1
            self._next_probe = time.monotonic() + _RETRY_INTERVAL_S
            return str(error) if self._failed >= _MAX_FAILED_PROBES else None
        self._failed, self._next_probe = 0, time.monotonic() + _PROBE_INTERVAL_S
        return None
