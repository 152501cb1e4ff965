"""A cluster on this machine for people without one: Ray's head and an MLflow server that stay.

Both listen on loopback alone, and ask for a token. Everything they leave is in one folder.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sumgrad.cluster.ray_backend.session import (
    RAY_DIRECTORY,
    create_token_file,
    make_private_directory,
)
from sumgrad.jobs.config.clusters import Cluster, read_cluster_config, write_cluster_config
from sumgrad.jobs.config.credentials import USER
from sumgrad.jobs.config.directories import user_directory
from sumgrad.jobs.config.tracking_uri import check_tracking_reachable
from sumgrad.jobs.errors import ClusterConfigError, ServiceUnreachable, TrackingError
from sumgrad.jobs.service.client.follow import wait
from sumgrad.jobs.service.client.ray_api import RayJobsClient
from sumgrad.jobs.service.local import servers
from sumgrad.jobs.service.local.processes import Process, start
from sumgrad.jobs.service.local.servers import HOST
from sumgrad.jobs.support.files import write_text
from sumgrad.jobs.support.memory import read_small_file
from sumgrad.model.errors import SumgradError

_TEMPORARY = "sumgrad-up-"
#: The name of its context.
NAME = "local"
DASHBOARD_PORT, MLFLOW_PORT = 8265, 5000
#: Both servers need seconds to start, on a busy machine many.
PATIENCE_S = 120.0


@dataclass(frozen=True)
class LocalCluster:
    """What is running.

    Attributes:
        address: Of Ray's dashboard.
        tracking_uri: Of the MLflow server.
        ray: The head.
        mlflow: The server.
        cpus: That jobs may use; None for all.
        temporary: Where Ray's own files are. Nobody else can look into it, and it is no other
            instance's: Ray's jobs find their cluster by a file in it.
    """

    address: str
    tracking_uri: str
    temporary: str
    ray: Process
    mlflow: Process
    cpus: int | None = None

    @property
    def cluster(self) -> Cluster:
        """As its context has it."""
        token = folder() / "token"
        return Cluster(
            self.address, NAME, self.tracking_uri, token_file=token, tracking_token_file=token
        )


def folder() -> Path:
    """Where it keeps its token, logs, curves and runs."""
    return user_directory("XDG_STATE_HOME", ".local/state") / "cluster"


def running() -> LocalCluster | None:
    """The cluster that was started and has not been ended; its servers may have died."""
    try:
        value: dict[str, Any] = json.loads(read_small_file(folder() / "cluster.json", 1 << 16))
        return LocalCluster(
            str(value["address"]),
            str(value["tracking_uri"]),
            str(value["temporary"]),
            _process(value["ray"]),
            _process(value["mlflow"]),
            None if value.get("cpus") is None else int(value["cpus"]),
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
    port: int | None = None,
    mlflow_port: int | None = None,
) -> tuple[LocalCluster, bool]:
    """Start it, and have commands mean it from now on.

    Args:
        note: Takes a line.
        cpus: CPUs that jobs may use; by default all.
        port: Of the dashboard; 8265 where nothing is said.
        mlflow_port: Of MLflow; 5000 where nothing is said.

    Returns:
        The cluster, and whether it is new.

    Raises:
        ServiceUnreachable: It did not start.
        ClusterConfigError: It runs, and not as it is wanted; or the file of names is damaged.
    """
    # Its name has to be written there in the end.
    write_cluster_config(read_cluster_config())
    servers.check_installed()
    there = running()
    if there is not None and there.ray.is_alive:
        _expect_same(there, cpus, port, mlflow_port)
        # Jobs may be running.
        there = _with_mlflow(there, note)
        _await(there)
        _use(there.cluster)
        return there, False
    if there is not None:
        note("Ray has died: ending what is left of it")
        down(note)
    started = _new(note, cpus, port or DASHBOARD_PORT, mlflow_port or MLFLOW_PORT)
    _use(started.cluster)
    return started, True


def _expect_same(
    there: LocalCluster, cpus: int | None, port: int | None, mlflow_port: int | None
) -> None:
    """Raise if something else is wanted than what runs."""
    pairs = (
        ("--port", port, _port(there.address)),
        ("--mlflow-port", mlflow_port, _port(there.tracking_uri)),
        ("--cpus", cpus, there.cpus),
    )
    others = [(name, has) for name, wanted, has in pairs if wanted is not None and wanted != has]
    if others:
        has = ", ".join(f"{name} {value or 'for all of them'}" for name, value in others)
        raise ClusterConfigError(
            f"a cluster runs on this machine already, with {has}",
            hint="'sumgrad cluster down' ends it, and saves its jobs; then 'sumgrad cluster up' "
            "anew. Without options 'up' leaves it as it is",
        )


def _port(uri: str) -> int:
    return int(uri.rpartition(":")[2])


def _new(
    note: Callable[[str], None], cpus: int | None, port: int, mlflow_port: int
) -> LocalCluster:
    """Start both servers; neither is left if one does not answer."""
    if port == mlflow_port:
        raise ClusterConfigError(f"Ray's dashboard and MLflow cannot both have port {port}")
    for what, number in (("Ray's dashboard", port), ("MLflow", mlflow_port)):
        servers.check_port_free(what, number)
    place = folder()
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    token = place / "token"
    create_token_file(token)
    uri = f"http://{HOST}:{mlflow_port}"
    note(f"starting Ray and MLflow on {HOST}; logs in {place}")
    temporary = str(make_private_directory(_TEMPORARY))
    with ExitStack() as undoing:
        undoing.callback(shutil.rmtree, temporary, ignore_errors=True)
        mlflow = _start_mlflow(mlflow_port)
        undoing.callback(mlflow.end)
        command = [*servers.ray_command(port, cpus), "--temp-dir", f"{temporary}/{RAY_DIRECTORY}"]
        environment = servers.ray_environment(place, token, uri)
        ray = start(command, environment, place, place / "ray.log")
        undoing.callback(ray.end)
        started = LocalCluster(f"http://{HOST}:{port}", uri, temporary, ray, mlflow, cpus)
        undoing.callback((place / "cluster.json").unlink, missing_ok=True)
        write_text(place / "cluster.json", json.dumps(asdict(started)))
        _await(started)
        undoing.pop_all()
    return started


def _start_mlflow(port: int) -> Process:
    place = folder()
    command = servers.mlflow_command(place, place / "token", port)
    return start(command, servers.mlflow_environment(), place, place / "mlflow.log")


def _with_mlflow(there: LocalCluster, note: Callable[[str], None]) -> LocalCluster:
    """The cluster with an MLflow server that runs, be it another one."""
    if there.mlflow.is_alive:
        return there
    note("MLflow has died: starting it again")
    there.mlflow.end()
    port = _port(there.tracking_uri)
    # Whoever may have its port by now is not shown the token.
    servers.check_port_free("MLflow", port)
    there = replace(there, mlflow=_start_mlflow(port))
    write_text(folder() / "cluster.json", json.dumps(asdict(there)))
    return there


def down(note: Callable[[str], None] = lambda _: None) -> bool:
    """End it; gives whether anything ran. Jobs are told to end first. Curves and runs stay."""
    there = running()
    if there is None:
        return False
    if there.ray.is_alive:
        try:
            _stop_jobs(RayJobsClient(there.cluster), note)
        except SumgradError as error:
            note(f"jobs could not be told to end, and end unsaved: {error.message}")
    there.ray.end()
    there.mlflow.end()
    (folder() / "cluster.json").unlink(missing_ok=True)
    if Path(there.temporary).name.startswith(_TEMPORARY):
        shutil.rmtree(there.temporary, ignore_errors=True)
    try:
        contexts = read_cluster_config()
        if NAME in contexts.clusters:
            write_cluster_config(contexts.without(NAME))
    except SumgradError as error:
        note(f"it was ended, and its name stays: {error.message}")
    return True


def _stop_jobs(server: RayJobsClient, note: Callable[[str], None]) -> None:
    """Have jobs save themselves."""
    living = [attempt.submission_id for attempt in server.attempts() if not attempt.has_ended]
    for name in living:
        note(f"stopping job {name}")
        server.stop(name)
    for name in living:
        wait(server, name, note, seconds=servers.STOP_JOB_S)


def _use(cluster: Cluster) -> None:
    write_cluster_config(read_cluster_config().with_cluster(cluster).using(NAME))


def _await(started: LocalCluster) -> None:
    give_up = time.monotonic() + PATIENCE_S
    server = RayJobsClient(started.cluster)
    while True:
        for name, process in (("ray", started.ray), ("mlflow", started.mlflow)):
            if not process.is_alive:
                log = folder() / f"{name}.log"
                raise ServiceUnreachable(f"{name} did not start: {_last_line(log)}", hint=str(log))
        try:
            server.server_info()
            check_tracking_reachable(started.tracking_uri)
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


def status_lines(there: LocalCluster) -> list[str]:
    """For a person."""

    def state(process: Process) -> str:
        return "runs" if process.is_alive else "has died"

    return [
        f"Ray      {there.address}  {state(there.ray)} (process {there.ray.pid})",
        f"MLflow   {there.tracking_uri}  {state(there.mlflow)} (process {there.mlflow.pid})",
        f"token    {folder() / 'token'}",
        f"login    MLflow's page asks for the user '{USER}' and a password: that token",
        f"files    {folder()}",
    ]
