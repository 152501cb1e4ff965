"""Being connected to Ray: a local instance of one's own, or a cluster by its address."""

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sumgrad.cluster.errors import ClusterUnreachable

#: What holds in every process that computes; it has to stand before NumPy is imported there.
WORKER_ENVIRONMENT: Mapping[str, str] = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

#: Ray's own switches: no usage reports, no packing of the folder that a command was run in.
_RAY_ENVIRONMENT: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

#: Where Ray looks for a cluster's token, before it looks into a file.
_TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

#: Ray's instances that were started by a session of this process, and have not ended; one at most.
_own_instances: list[str] = []

#: Places to run at that are no addresses of a host.
NAMED_ADDRESSES = ("inline", "local", "auto")
#: In a private folder, that of Ray. Both names are short, for the sake of sockets' names.
RAY_DIRECTORY = "ray"
_LONGEST_TEMPORARY = 16

#: How long a cluster may take to answer a plain connection, in seconds.
PROBE_TIMEOUT_S = 3.0


@contextlib.contextmanager
def ray_session(
    address: str,
    workers: int | None,
    *,
    least: int | None = None,
    waits_for_nodes: bool = False,
) -> Iterator[int]:
    """Connect to Ray, and let go of it at the end.

    Args:
        address: ``local`` for an instance of our own on this machine, which ends with us, or the
            ``host:port`` of a cluster, or ``auto`` for the one that runs on this machine.
        workers: How many CPUs are wanted; None for all there are.
        least: How few will do; by default no fewer than wanted.
        waits_for_nodes: Whether the cluster may get the least number only later.

    Yields:
        The number of workers to start.

    Raises:
        ClusterUnreachable: Nothing answers there, or it has too few CPUs.
    """
    check_reachable(address)
    wanted = {**_RAY_ENVIRONMENT, **WORKER_ENVIRONMENT, **_client_environment(address)}
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    import ray

    with _private_folder() as folder:
        # Ray puts the current folder first on the workers' module path, where a user's own model.py
        # would stand in for ours; so it is started from a folder that has nothing in it.
        empty = folder / "empty"
        empty.mkdir()
        try:
            if address == "local":
                ensure_token_file()
            with _current_folder(empty), preserve_sigterm(), _own_output(), _loopback(address):
                _init(address, workers if least is None else least, folder / RAY_DIRECTORY)
            if address == "local":
                _own_instances.append(address)
            yield _available_workers(workers, least, waits_for_nodes=waits_for_nodes)
        finally:
            _own_instances.clear()
            ray.shutdown()


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder that nobody else can look into, and that is removed at the end."""
    place = make_private_directory("sumgrad-")
    try:
        yield place
    finally:
        # What Ray's last processes still write there is not worth an error.
        shutil.rmtree(place, ignore_errors=True)


def make_private_directory(prefix: str) -> Path:
    """Make a temporary folder that nobody else can look into, for a folder of Ray's own.

    Ray has its files in a folder that every user of the machine may write to, with the code and the
    sockets of jobs in it; so whoever could come there could run code as its owner.

    Args:
        prefix: Of its name.
    """
    usual = tempfile.gettempdir()
    # The names of sockets have a length that they must not exceed.
    is_short = len(usual) <= _LONGEST_TEMPORARY or not Path("/tmp").is_dir()  # noqa: S108
    return Path(tempfile.mkdtemp(prefix=prefix, dir=None if is_short else "/tmp"))  # noqa: S108


def is_local_instance() -> bool:
    """Whether the Ray that this process is connected to is its own, and used by nobody else."""
    return bool(_own_instances)


def local_instance_failure() -> str | None:
    """What has ended of this process's own instance, which cannot go on without it."""
    if not is_local_instance():
        return None
    from ray._private import worker

    # Nothing public of Ray's says so; and some seconds later it ends the process, unsaved.
    node: Any = worker._global_node  # noqa: SLF001
    ended = [str(name) for name, _ in node.dead_processes()] if node is not None else []
    return f"Ray's {ended[0]} on this machine has ended" if ended else None


def _client_environment(address: str) -> Mapping[str, str]:
    """What a client of a running cluster needs in its environment before Ray is imported.

    A token in the environment is meant for the cluster. One in Ray's file may be that of an earlier
    local instance, and showing it to a cluster that asks for none has Ray lose its actors.
    """
    given = any(name in os.environ for name in _TOKEN_VARIABLES)
    return {"RAY_AUTH_MODE": "token"} if given and address != "local" else {}


def ensure_token_file() -> None:
    """Make Ray's token file if there is none, readable by its owner alone.

    A local Ray instance asks for a token, and makes the file itself with whatever rights new files
    have. Whoever can read it can run code as its owner.
    """
    if any(name in os.environ for name in _TOKEN_VARIABLES):
        return
    # Where home cannot be written, Ray says so.
    with contextlib.suppress(OSError, RuntimeError):
        file = Path.home() / ".ray" / "auth_token"
        file.parent.mkdir(exist_ok=True)
        create_token_file(file)


def create_token_file(file: Path) -> None:
    """Make a file with a new token, or keep the one there is; readable by its owner alone.

    Raises:
        OSError: It cannot be written.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        file.chmod(0o600)
    else:
        with os.fdopen(descriptor, "w") as new:
            new.write(secrets.token_hex(32))


@contextlib.contextmanager
def preserve_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM that is there, where Ray would put its own in place.

    Ray's end the process by an exception from wherever it happens to be, which can leave a lock of
    the logging module locked for ever, or be swallowed. Beneath Python it installs another, which
    aborts a process that has not ended three seconds later.
    """
    install = signal.signal

    def install_others(number: int, handler: Any) -> Any:
        return signal.getsignal(number) if number == signal.SIGTERM else install(number, handler)

    signal.signal = install_others  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = install
        handler = signal.getsignal(signal.SIGTERM)
        if handler is not None:
            # What Python takes to be there is put there again.
            signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _own_output() -> Iterator[None]:
    """Keep Ray from printing what its daemons say, such as of workers that were killed.

    It goes to stdout, where results are, and no option of Ray's turns it off. What it says of
    workers is told by those who notice.
    """
    from ray._private import worker

    listen = worker.listen_error_messages
    worker.listen_error_messages = lambda *_: None
    try:
        yield
    finally:
        worker.listen_error_messages = listen


@contextlib.contextmanager
def _loopback(address: str) -> Iterator[None]:
    """Have an instance of our own listen on loopback alone, as Ray does on other systems.

    On Linux its dozen ports would be open to every network of the machine. Ray has a switch for
    it, which it reads when it is imported; for a cluster it must stand as it was.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = before and address != "local"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _init(address: str, workers: int | None, folder: Path) -> None:
    import ray

    local = address == "local"
    cpus = max(workers or 1, usable_cpus()) if local else None
    try:
        ray.init(
            address=address,
            num_cpus=cpus,
            include_dashboard=False if local else None,
            _temp_dir=str(folder) if local else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:
        # Ray raises all kinds of errors here, a daemon that does not start as a bare `Exception`.
        first_line = str(error).strip().partition("\n")[0]
        if local:
            raise ClusterUnreachable(f"Ray did not start here: {first_line}") from error
        raise ClusterUnreachable(
            f"no Ray cluster at '{address}': {first_line}",
            hint="it must run the same versions of Ray and Python; if it asks for a token, put its "
            "path into RAY_AUTH_TOKEN_PATH (often ~/.ray/auth_token)",
        ) from error


def usable_cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _available_workers(wanted: int | None, least: int | None, *, waits_for_nodes: bool) -> int:
    import ray

    least = least or wanted or 1

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's
    cpus = int(resources.get("CPU", 0))
    if least > cpus and not waits_for_nodes:
        raise ClusterUnreachable(
            f"the job needs {least} workers of one CPU each, the cluster has {cpus}",
            hint=f"set cluster.workers to {cpus} or fewer, or add nodes" if cpus else "add nodes",
        )
    return max(least, min(wanted or cpus, cpus))


def check_reachable(address: str) -> None:
    """A quick look whether anything listens there: Ray itself would try for minutes.

    Raises:
        ClusterUnreachable: Not an address, or nothing answers.
    """
    check_address(address)
    if address in NAMED_ADDRESSES:
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterUnreachable(
            f"no Ray cluster answers at '{address}': {error}",
            hint="check cluster.address, or use local",
        ) from None


def check_address(address: str) -> None:
    """Raise where a text cannot be a place to run at, whoever answers there; asks nobody.

    Raises:
        ClusterUnreachable: It is none.
    """
    if address in NAMED_ADDRESSES:
        return
    if address.startswith("ray://"):
        raise ClusterUnreachable(
            "Ray Client addresses (ray://) are not supported",
            hint="run on a machine of the cluster, with its GCS address: host:6379",
        )
    host, _, port = address.rpartition(":")
    # Of other digits than these `int` makes a number too, and no port.
    if not host or not (port.isascii() and port.isdigit()):
        raise ClusterUnreachable(
            f"cluster.address '{address}' is not inline, local, auto or host:port",
            hint="a Ray head's address is often host:6379",
        )


@contextlib.contextmanager
def _current_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
