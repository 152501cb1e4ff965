"""Connections to Ray: an instance of this process on this machine, or a cluster by its address."""

import contextlib
import logging
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sumgrad.cluster.address import check_reachable
from sumgrad.cluster.errors import ClusterUnreachable
from sumgrad.cluster.ray_backend.watchdog import DaemonWatch, HeadWatch, RayStalled, run_watched
from sumgrad.cluster.temporary import temporary_directory

#: Environment of every process that computes, set before NumPy is imported there.
WORKER_ENVIRONMENT: Mapping[str, str] = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_RAY_ENVIRONMENT: Mapping[str, str] = {
    # Ray sends no usage reports.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Below 'uv run', Ray would pack the current directory and send it to every worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Ray leaves CUDA_VISIBLE_DEVICES of workers without GPUs as it is. Without this variable it
    # warns that a later version will do so.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
#: Where Ray looks for a cluster's token before it looks for a file.
_TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
RAY_DIRECTORY = "ray"  #: Ray's directory within a private one; short, because sockets are below it.


@contextlib.contextmanager
def ray_session(
    address: str, cpus: int | None, *, min_cpus: int | None = None, waits_for_nodes: bool = False
) -> Iterator[int]:
    """Connect to Ray, yield the number of CPUs to use, and disconnect at the end.

    Args:
        address: ``local`` for an instance on this machine that ends with this process, the
            ``host:port`` of a cluster, or ``auto`` for the one that runs on this machine.
        cpus: The number of CPUs to use, or None for all.
        min_cpus: The smallest number that suffices; by default `cpus`.
        waits_for_nodes: Whether the cluster may get the smallest number of CPUs later.
    """
    check_reachable(address)
    environment = {**_RAY_ENVIRONMENT, **WORKER_ENVIRONMENT, **_client_environment(address)}
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    needed = cpus if min_cpus is None else min_cpus
    with temporary_directory() as directory, _connected(address, needed, directory):
        yield _available_cpus(cpus, min_cpus, waits_for_nodes=waits_for_nodes)


@contextlib.contextmanager
def _connected(address: str, cpus: int | None, directory: Path) -> Iterator[None]:
    import ray

    from sumgrad.cluster.ray_backend import patches

    watch = _make_watch(address)
    # Ray puts the current directory on the module path, where a user's numpy.py would hide NumPy.
    empty = directory / "empty"
    empty.mkdir()
    is_stalled, is_finished = False, threading.Event()
    try:
        with (
            contextlib.chdir(empty),
            patches.preserve_sigterm(),
            patches.release_interpreter(),
            patches.silence_daemons(),
            patches.loopback_only(enabled=address == "local"),
            patches.only_needed_daemons(enabled=address == "local"),
        ):
            run_watched(
                lambda: _init(address, cpus, directory / RAY_DIRECTORY),
                watch.failure,
                keep_thread=is_finished,
            )
        yield
    except RayStalled:
        is_stalled = True
        raise
    finally:
        DaemonWatch.current = None
        if is_stalled or (isinstance(watch, DaemonWatch) and watch.blocks_shutdown()):
            # The daemons end with this process.
            patches.abandon()
        else:
            ray.shutdown()
            is_finished.set()


def _make_watch(address: str) -> DaemonWatch | HeadWatch:
    """Return the watch of a new session; create the token that a local instance requires."""
    from sumgrad.cluster.ray_backend import patches

    if address == "local":
        ensure_token_file()
        DaemonWatch.current = DaemonWatch()
        return DaemonWatch.current
    if address == "auto":
        address = patches.find_running_instance()
        check_reachable(address)
    return HeadWatch(address)


def _init(address: str, cpus: int | None, directory: Path) -> None:
    import ray

    options: dict[str, Any] = {}
    if address == "local":
        options = {
            "num_cpus": max(cpus or 1, usable_cpus()),
            "include_dashboard": False,
            "_temp_dir": str(directory),
        }
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:
        # Ray raises errors of many types here, and a bare `Exception` for a daemon.
        first_line = str(error).strip().partition("\n")[0]
        if options:
            raise ClusterUnreachable(f"Ray did not start on this machine: {first_line}") from error
        raise ClusterUnreachable(
            f"no Ray cluster at '{address}': {first_line}",
            hint="it must run the same versions of Ray and Python; if it requires a token, set "
            "RAY_AUTH_TOKEN_PATH to its file (often ~/.ray/auth_token)",
        ) from error


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _available_cpus(cpus: int | None, min_cpus: int | None, *, waits_for_nodes: bool) -> int:
    import ray

    min_cpus = min_cpus or cpus or 1
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's
    total = int(resources.get("CPU", 0))
    if min_cpus > total and not waits_for_nodes:
        raise ClusterUnreachable(
            f"the job needs {min_cpus} workers of one CPU each, the cluster has {total}",
            hint=f"set cluster.workers to {total} or fewer, or add nodes" if total else "add nodes",
        )
    return max(min_cpus, min(cpus or total, total))


# --- tokens


def _client_environment(address: str) -> Mapping[str, str]:
    """Return what a client of a running cluster needs in its environment before Ray is imported.

    A token in the environment is meant for the cluster. The one in Ray's file may be that of an
    earlier local instance, and a cluster without tokens loses its actors when it is sent one.
    """
    return {"RAY_AUTH_MODE": "token"} if _has_token() and address != "local" else {}


def _has_token() -> bool:
    return any(name in os.environ for name in _TOKEN_VARIABLES)


def ensure_token_file() -> None:
    """Create Ray's token file if there is none, readable by its owner alone.

    A local Ray instance requires a token and creates the file with the rights that new files have.
    Any user who can read it can run code as its owner.
    """
    if _has_token():
        return
    # Ray reports a home directory that is not writable.
    with contextlib.suppress(OSError, RuntimeError):
        file = Path.home() / ".ray" / "auth_token"
        file.parent.mkdir(exist_ok=True)
        create_token_file(file)


def create_token_file(file: Path) -> None:
    """Create a file with a new token, or keep the existing one; readable by its owner alone."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        file.chmod(0o600)
    else:
        with os.fdopen(descriptor, "w") as new:
            new.write(secrets.token_hex(32))
