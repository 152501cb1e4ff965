"""A cluster on this machine for people without one: Ray's head and an MLflow server that stay.

Both listen on loopback alone, and Ray asks for a token. Everything they leave is in one folder.
"""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cluster.ray_session import make_token_file
from jobs.durable import write_text
from jobs.errors import ContextError, ServiceUnreachable, TrackingError
from jobs.room import read_small
from jobs.service.contexts import Cluster, read_contexts, write_contexts
from jobs.service.following import wait
from jobs.service.places import user_folder
from jobs.service.ray_jobs import JobServer
from jobs.tracking.location import check_reachable
from model.errors import SumgradError

_TEMPORARY = "sumgrad-cluster-"
#: The name of its context.
NAME = "local"
HOST = "127.0.0.1"
DASHBOARD_PORT, MLFLOW_PORT = 8265, 5000
#: Both servers need seconds to start, on a busy machine many.
PATIENCE_S = 120.0
_STOP_S = 20.0
#: As long as Ray itself waits before it kills them.
_STOP_JOB_S = 30.0
#: MLflow would start four more processes, a gigabyte in all, for evaluations that nobody here has.
_MLFLOW_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
#: With this Ray uses loopback alone, as it does on other systems by default.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


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
        return _start_of(self.pid) == self.began

    def end(self) -> None:
        """End it and all that it has started, also what has outlived it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self._session():
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            give_up = time.monotonic() + _STOP_S
            while self._session() and time.monotonic() < give_up:
                with suppress(ChildProcessError):
                    os.waitpid(self.pid, os.WNOHANG)
                time.sleep(0.05)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)

    def _session(self) -> list[int]:
        """What is alive of its session; nothing where another process has got its number."""
        leader = _stat_of(self.pid)
        if leader is not None and leader.began != self.began:
            return []
        found = []
        for place in Path("/proc").glob("[1-9]*"):
            process = _stat_of(int(place.name))
            if process is None or process.session != self.pid or process.began < self.began:
                continue
            if process.is_alive:
                found.append(int(place.name))
        return found


@dataclass(frozen=True)
class LocalCluster:
    """What is running.

    Attributes:
        address: Of Ray's dashboard.
        tracking_uri: Of the MLflow server.
        ray: The head.
        mlflow: The server.
        temporary: Ray's own files. The folder's name is short, for Ray puts sockets there, and it
            is no other instance's: Ray's jobs find their cluster by a file in it.
    """

    address: str
    tracking_uri: str
    temporary: str
    ray: Process
    mlflow: Process

    @property
    def cluster(self) -> Cluster:
        """As its context has it."""
        return Cluster(self.address, NAME, self.tracking_uri, folder() / "token")


def folder() -> Path:
    """Where it keeps its token, logs, curves and runs."""
    return user_folder("XDG_STATE_HOME", ".local/state") / "cluster"


def running() -> LocalCluster | None:
    """The cluster that was started and has not been ended; its servers may have died."""
    try:
        value: dict[str, Any] = json.loads(read_small(folder() / "cluster.json", 1 << 16))
        return LocalCluster(
            str(value["address"]),
            str(value["tracking_uri"]),
            str(value["temporary"]),
            _process(value["ray"]),
            _process(value["mlflow"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _process(value: Mapping[str, Any]) -> Process:
    # A number that is no process's would mean a group of them, or all.
    pid, began = int(value["pid"]), int(value["began"])
    if pid <= 1:
        raise ValueError(f"{pid} is no process of ours")
    return Process(pid, began)


def up(
    note: Callable[[str], None],
    *,
    cpus: int | None = None,
    port: int = DASHBOARD_PORT,
    mlflow_port: int = MLFLOW_PORT,
) -> tuple[LocalCluster, bool]:
    """Start it, and have commands mean it from now on.

    Args:
        note: Takes a line.
        cpus: CPUs that jobs may use; by default all.
        port: Of the dashboard.
        mlflow_port: Of MLflow.

    Returns:
        The cluster, and whether it is new.

    Raises:
        ServiceUnreachable: It did not start.
    """
    # Its name has to be written there in the end.
    write_contexts(read_contexts())
    _expect_parts()
    there = running()
    if there is not None and there.ray.is_alive:
        # Jobs may be running.
        there = _with_mlflow(there, note)
        _await(there)
        _use(there.cluster)
        return there, False
    if there is not None:
        note("Ray has died: ending what is left of it")
        down(note)
    if port == mlflow_port:
        raise ContextError(f"Ray's dashboard and MLflow cannot both have port {port}")
    for what, number in (("Ray's dashboard", port), ("MLflow", mlflow_port)):
        _expect_free(what, number)
    place = folder()
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    token = place / "token"
    make_token_file(token)
    tracking_uri = f"http://{HOST}:{mlflow_port}"
    note(f"starting Ray and MLflow on {HOST}; logs in {place}")
    temporary = tempfile.mkdtemp(prefix=_TEMPORARY)
    with ExitStack() as undoing:
        undoing.callback(shutil.rmtree, temporary, ignore_errors=True)
        mlflow = _start("mlflow", _mlflow_command(place, mlflow_port), _MLFLOW_ENVIRONMENT)
        undoing.callback(mlflow.end)
        command = [*_ray_command(port, cpus), "--temp-dir", temporary]
        ray = _start("ray", command, _ray_environment(place, token, tracking_uri))
        undoing.callback(ray.end)
        started = LocalCluster(f"http://{HOST}:{port}", tracking_uri, temporary, ray, mlflow)
        undoing.callback((place / "cluster.json").unlink, missing_ok=True)
        write_text(place / "cluster.json", json.dumps(asdict(started)))
        _await(started)
        undoing.pop_all()
    _use(started.cluster)
    return started, True


def _with_mlflow(there: LocalCluster, note: Callable[[str], None]) -> LocalCluster:
    """The cluster with an MLflow server that runs, be it another one."""
    if there.mlflow.is_alive:
        return there
    with suppress(TrackingError):
        check_reachable(there.tracking_uri)
        note(f"MLflow's process has died, and another answers at {there.tracking_uri}")
        return there
    note("MLflow has died: starting it again")
    there.mlflow.end()
    port = int(there.tracking_uri.rpartition(":")[2])
    _expect_free("MLflow", port)
    mlflow = _start("mlflow", _mlflow_command(folder(), port), _MLFLOW_ENVIRONMENT)
    there = replace(there, mlflow=mlflow)
    write_text(folder() / "cluster.json", json.dumps(asdict(there)))
    return there


def down(note: Callable[[str], None] = lambda _: None) -> bool:
    """End it; gives whether anything ran. Jobs are told to end first. Curves and runs stay."""
    there = running()
    if there is None:
        return False
    if there.ray.is_alive:
        try:
            _stop_jobs(JobServer(there.cluster), note)
        except SumgradError as error:
            note(f"jobs could not be told to end, and end unsaved: {error.message}")
    there.ray.end()
    there.mlflow.end()
    (folder() / "cluster.json").unlink(missing_ok=True)
    if Path(there.temporary).name.startswith(_TEMPORARY):
        shutil.rmtree(there.temporary, ignore_errors=True)
    try:
        contexts = read_contexts()
        if NAME in contexts.clusters:
            write_contexts(contexts.without(NAME))
    except SumgradError as error:
        note(f"it was ended, and its name stays: {error.message}")
    return True


def _stop_jobs(server: JobServer, note: Callable[[str], None]) -> None:
    """Have jobs save themselves."""
    living = [attempt.submission_id for attempt in server.attempts() if not attempt.is_over]
    for name in living:
        note(f"stopping job {name}")
        server.stop(name)
    for name in living:
        wait(server, name, note, seconds=_STOP_JOB_S)


def _use(cluster: Cluster) -> None:
    write_contexts(read_contexts().with_cluster(cluster).using(NAME))


def _expect_parts() -> None:
    """Raise unless Ray's dashboard is installed, which it leaves out by default."""
    if any(importlib.util.find_spec(name) is None for name in ("aiohttp_cors", "opencensus")):
        raise ServiceUnreachable(
            "Ray's dashboard, which takes jobs, is not installed here",
            hint="pip install 'sumgrad[cluster]'",
        )


def _expect_free(what: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServiceUnreachable(
                f"port {port}, for {what}, cannot be had: {error.strerror}",
                hint="--port and --mlflow-port choose others",
            ) from None


def _mlflow_command(place: Path, port: int) -> list[str]:
    return [
        *(sys.executable, "-P", "-m", "mlflow", "server"),
        *("--host", HOST, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{place / 'mlflow.db'}"),
        *("--artifacts-destination", (place / "mlartifacts").as_uri()),
        *("--allowed-hosts", f"{HOST}:{port},localhost:{port}"),
    ]


def _ray_command(port: int, cpus: int | None) -> list[str]:
    # Every port that Ray would take by default is one that another instance may have.
    client, agent, gcs = _free_ports(3)
    return [
        *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--port", str(gcs), "--disable-usage-stats"),
        *("--dashboard-host", HOST, "--dashboard-port", str(port)),
        *("--ray-client-server-port", str(client), "--dashboard-agent-listen-port", str(agent)),
        *(("--num-cpus", str(cpus)) if cpus else ()),
    ]


def _ray_environment(place: Path, token: Path, tracking_uri: str) -> dict[str, str]:
    return {
        **_LOOPBACK,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        # A job that is stopped saves itself.
        "RAY_JOB_STOP_WAIT_TIME_S": f"{_STOP_JOB_S:.0f}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_TRACKING_URI": tracking_uri,
        "SUMGRAD_OUTPUT": str(place / "jobs"),
        "SUMGRAD_PYTHON": sys.executable,
    }


def _free_ports(count: int) -> list[int]:
    with_ports = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in with_ports]
    for each in with_ports:
        each.close()
    return ports


def _start(name: str, command: Sequence[str], environment: Mapping[str, str]) -> Process:
    # A token of the caller's own is for another cluster.
    ours = {key: value for key, value in os.environ.items() if key != "RAY_AUTH_TOKEN"}
    with (folder() / f"{name}.log").open("ab") as log:
        started = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder(),
            env=ours | dict(environment),
            start_new_session=True,
        )
    # One that has died at once is there as long as nobody has asked for its exit code.
    found = _stat_of(started.pid)
    return Process(started.pid, found.began if found is not None else 0)


def _await(started: LocalCluster) -> None:
    give_up = time.monotonic() + PATIENCE_S
    server = JobServer(started.cluster)
    while True:
        for name, process in (("ray", started.ray), ("mlflow", started.mlflow)):
            if not process.is_alive:
                log = folder() / f"{name}.log"
                raise ServiceUnreachable(f"{name} did not start: {_last_line(log)}", hint=str(log))
        try:
            server.describe()
            check_reachable(started.tracking_uri)
        except (ServiceUnreachable, TrackingError) as error:
            if time.monotonic() > give_up:
                raise ServiceUnreachable(error.message, hint=f"see {folder()}") from None
            time.sleep(0.2)
        else:
            return


def _last_line(log: Path) -> str:
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "it says nothing")
    return "it left no log"


@dataclass(frozen=True)
class _Stat:
    """What the kernel says of a process: its session, its start in ticks, whether it runs."""

    session: int
    began: int
    is_alive: bool


def _stat_of(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name before it may hold anything, also blanks and brackets.
    fields = text.rpartition(")")[2].split()
    return _Stat(int(fields[3]), int(fields[19]), is_alive=fields[0] not in "ZX")


def _start_of(pid: int) -> int | None:
    """When a process began, in the kernel's ticks; None if there is none, or only its remains."""
    found = _stat_of(pid)
    return found.began if found is not None and found.is_alive else None


def lines_of(there: LocalCluster) -> list[str]:
    """For a person."""

    def state(process: Process) -> str:
        return "runs" if process.is_alive else "has died"

    return [
        f"Ray      {there.address}  {state(there.ray)} (process {there.ray.pid})",
        f"MLflow   {there.tracking_uri}  {state(there.mlflow)} (process {there.mlflow.pid})",
        f"token    {folder() / 'token'}",
        f"files    {folder()}",
    ]
