"""Everything that sumgrad reads or replaces inside Ray; checked against Ray 2.60.0.

No public interface of Ray serves these purposes. `tests/cluster/ray_backend/test_patches.py` fails
when another version of Ray is installed or when it has changed one of them.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ray._private import node, ray_constants, services, utils, worker

from sumgrad.cluster.errors import ClusterUnreachable

#: The module as `Any`, because it does not export the names that are used here.
_node: Any = node
#: The version of Ray for which each function of this module was checked.
CHECKED_VERSION = "2.60.0"
_POLL_S = 0.01  #: Polling interval of the port's file in seconds.
_LAST_WAIT_MS = 5000  #: Timeout of Ray's own wait once the file exists, in milliseconds.


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextlib.contextmanager
def preserve_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM while Ray starts.

    Ray's core installs a handler that aborts a process which has not ended three seconds after the
    signal. The handler that Python knows is installed again at the end.
    """
    try:
        yield
    finally:
        handler = signal.getsignal(signal.SIGTERM)
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def release_interpreter() -> AbstractContextManager[None]:
    """Have Ray wait for the port of its GCS in Python.

    Its core keeps the interpreter locked while it waits, so that no other thread could notice for
    half a minute that the GCS has died.
    """
    wait = _node.wait_for_persisted_port

    def poll(directory: str, node_id: str, name: str, *, timeout_ms: int) -> Any:
        file = Path(directory, _node.get_port_filename(node_id, name))
        deadline = time.monotonic() + timeout_ms / 1000
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return wait(directory, node_id, name, timeout_ms=min(timeout_ms, _LAST_WAIT_MS))

    return _replaced(_node, "wait_for_persisted_port", poll)


def silence_daemons() -> AbstractContextManager[None]:
    """Suppress what Ray prints about its daemons' reports, such as workers that were killed.

    Ray prints these lines to stdout, which is for results, and has no option to disable them.
    """
    return _replaced(worker, "listen_error_messages", lambda *_: None)


def loopback_only(*, enabled: bool) -> AbstractContextManager[None]:
    """Let an instance that is started now listen on loopback alone, as on other systems than Linux.

    On Linux its dozen ports are open to every network of the machine. Ray reads the variable for
    this when it is imported, and it must not hold for connections to a cluster.
    """
    is_open = ray_constants.ENABLE_RAY_CLUSTER and not enabled
    return _replaced(ray_constants, "ENABLE_RAY_CLUSTER", is_open)


@contextlib.contextmanager
def only_needed_daemons(*, enabled: bool) -> Iterator[None]:
    """Start an instance without its autoscaler, log monitor and API server, with a minimal agent.

    A job on this machine uses none of them, and they take five seconds of CPU time to start. The
    agent is minimal where Ray is installed without its extra `default`.
    """
    with contextlib.ExitStack() as stack:
        if enabled:
            for name in ("start_monitor", "start_log_monitor", "start_api_server"):
                stack.enter_context(_replaced(node.Node, name, lambda *_, **__: None))
            stack.enter_context(_replaced(utils, "get_dashboard_dependency_error", ImportError))
        yield


def find_running_instance() -> str:
    """Return the host and port that Ray connects to for ``auto``."""
    address = os.environ.get(ray_constants.RAY_ADDRESS_ENVIRONMENT_VARIABLE) or "auto"
    found: str | None = None
    with contextlib.suppress(ConnectionError):
        found = services.canonicalize_bootstrap_address(address)
    if found is None:
        raise ClusterUnreachable(
            "no Ray cluster runs on this machine",
            hint="use local, or start one with 'ray start --head'",
        )
    return found


def abandon() -> None:
    """Skip Ray's shutdown, which would wait for a thread that is stuck in Ray.

    Its handler at exit is removed, and what its C++ core prints from now on is discarded.
    """
    atexit.unregister(worker.shutdown)
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
        own = os.dup(2)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)
        sys.stderr = os.fdopen(own, "w", buffering=1, encoding="utf-8", errors="replace")
