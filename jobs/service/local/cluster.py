"""A cluster on this machine: Ray's head and an MLflow server, which stay after the command.

Both listen on loopback alone and ask for a token. Everything that they write is in one folder.
"""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from sumgrad.cluster.ray_backend.session import RAY_DIRECTORY, create_token_file
from sumgrad.cluster.temporary import make_private_directory
from sumgrad.jobs.config.clusters import (
    LOCAL_NAME,
    Cluster,
    read_cluster_config,
    write_cluster_config,
)
from sumgrad.jobs.config.credentials import USER
from sumgrad.jobs.config.directories import local_cluster_directory
from sumgrad.jobs.config.tracking_uri import check_tracking_reachable
from sumgrad.jobs.errors import ClusterConfigError, ServiceUnreachable, TrackingError
from sumgrad.jobs.service.client.follow import wait
from sumgrad.jobs.service.client.ray_api import RayJobsClient
from sumgrad.jobs.service.local import servers
from sumgrad.jobs.service.local.processes import ServerProcess, start_process
from sumgrad.jobs.service.local.servers import HOST
from sumgrad.jobs.support.files import write_text
from sumgrad.jobs.support.memory import read_small_file
from sumgrad.jobs.support.polling import wait_until
from sumgrad.model.errors import SumgradError

_logger = logging.getLogger(__name__)
DASHBOARD_PORT, MLFLOW_PORT = 8265, 5000
START_TIMEOUT_S = 120.0  #: Both servers need seconds to start, and many more on a busy machine.
_TEMPORARY_PREFIX = "sumgrad-up-"


@dataclass(frozen=True)
class LocalCluster:
    """The servers that `up` has started."""

    address: str  #: The address of Ray's dashboard.
    tracking_uri: str
    #: A private folder for this instance alone: Ray's jobs find their cluster by a file in it.
    temporary: str
    ray: ServerProcess
    mlflow: ServerProcess
    cpus: int | None = None  #: CPUs for jobs; None for all.

    @property
    def cluster(self) -> Cluster:
        """The entry in the user's configuration."""
        token = local_cluster_directory() / "token"
        return Cluster(
            name=LOCAL_NAME,
            address=self.address,
            tracking_uri=self.tracking_uri,
            token_file=token,
            tracking_token_file=token,
        )

    @property
    def is_alive(self) -> bool:
        """Whether both servers run."""
        return self.ray.is_alive and self.mlflow.is_alive

    def save(self) -> None:
        """Record it for later commands."""
        write_text(_record_file(), json.dumps(asdict(self)))


def running() -> LocalCluster | None:
    """Return the cluster that was started and not stopped; its servers may have died."""
    try:
        text = read_small_file(_record_file(), 1 << 16)
        return TypeAdapter(LocalCluster).validate_json(text)
    except (OSError, ValueError):
        return None


def _record_file() -> Path:
    return local_cluster_directory() / "cluster.json"


@contextmanager
def _locked() -> Iterator[None]:
    """Let one command at a time start or end the cluster."""
    folder = local_cluster_directory()
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        acquired = lock.acquire(blocking=False)
    except Timeout:
        _logger.info("another command starts or ends the cluster: waiting for it")
        acquired = lock.acquire()
    with acquired:
        yield


def up(
    *, cpus: int | None = None, port: int | None = None, mlflow_port: int | None = None
) -> tuple[LocalCluster, bool]:
    """Start a cluster on this machine unless it runs, make it the current one, and return it.

    By default the jobs have all CPUs, Ray's dashboard port 8265 and MLflow port 5000. The second
    value is whether the cluster is new.

    Raises:
        ServiceUnreachable: It did not start.
        ClusterConfigError: One runs with other options, a port cannot be used, or the user's
            configuration is damaged.
    """
    # Fails early where the cluster's name could not be written in the end.
    write_cluster_config(read_cluster_config())
    servers.check_installed()
    with _locked():
        existing = running()
        if existing is not None and not existing.ray.is_alive:
            _logger.info("Ray has ended unexpectedly: stopping the rest of the cluster")
            _end(existing)
            existing = None
        if existing is None:
            cluster = _start(cpus, port or DASHBOARD_PORT, mlflow_port or MLFLOW_PORT)
        else:
            _check_options(existing, cpus, port, mlflow_port)
            # Ray is left alone: its jobs may be running.
            cluster = _ensure_mlflow(existing)
        config = read_cluster_config().with_cluster(LOCAL_NAME, cluster.cluster.model_dump())
        write_cluster_config(config.using(LOCAL_NAME))
    return cluster, existing is None


def _check_options(
    existing: LocalCluster, cpus: int | None, port: int | None, mlflow_port: int | None
) -> None:
    """Raise if the existing cluster has other options than the requested ones."""
    options = (
        ("--port", port, _port(existing.address)),
        ("--mlflow-port", mlflow_port, _port(existing.tracking_uri)),
        ("--cpus", cpus, existing.cpus),
    )
    different = [
        f"{name} {actual or 'for all of them'}"
        for name, requested, actual in options
        if requested not in (None, actual)
    ]
    if different:
        raise ClusterConfigError(
            f"a cluster runs on this machine already, with {', '.join(different)}",
            hint="'sumgrad cluster down' saves its jobs and ends it; 'sumgrad cluster up' without "
            "options leaves it as it is",
        )


def _port(uri: str) -> int:
    return int(uri.rpartition(":")[2])


def _start(cpus: int | None, port: int, mlflow_port: int) -> LocalCluster:
    """Start both servers; end both if one of them does not answer."""
    servers.check_ports(port, mlflow_port)
    folder = local_cluster_directory()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    create_token_file(folder / "token")
    uri = f"http://{HOST}:{mlflow_port}"
    _logger.info("starting Ray and MLflow on %s; logs in %s", HOST, folder)
    temporary = str(make_private_directory(_TEMPORARY_PREFIX))
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, temporary, ignore_errors=True)
        mlflow = _start_mlflow(mlflow_port)
        undo.callback(mlflow.terminate)
        command = [*servers.ray_command(port, cpus), "--temp-dir", f"{temporary}/{RAY_DIRECTORY}"]
        environment = servers.ray_environment(folder, folder / "token", uri)
        ray = start_process(command, environment, folder, folder / "ray.log")
        undo.callback(ray.terminate)
        cluster = LocalCluster(f"http://{HOST}:{port}", uri, temporary, ray, mlflow, cpus)
        undo.callback(_record_file().unlink, missing_ok=True)
        cluster.save()
        _wait_until_ready(cluster)
        undo.pop_all()
    return cluster


def _start_mlflow(port: int) -> ServerProcess:
    folder = local_cluster_directory()
    command = servers.mlflow_command(folder, folder / "token", port)
    return start_process(command, servers.mlflow_environment(), folder, folder / "mlflow.log")


def _ensure_mlflow(cluster: LocalCluster) -> LocalCluster:
    """Return the cluster with its MLflow server running, started again if it has died."""
    if not cluster.mlflow.is_alive:
        _logger.info("MLflow has died: starting it again")
        cluster.mlflow.terminate()
        port = _port(cluster.tracking_uri)
        # Another program that listens there must not receive the token.
        servers.check_port_free("MLflow", port)
        cluster = replace(cluster, mlflow=_start_mlflow(port))
        cluster.save()
    _wait_until_ready(cluster)
    return cluster


def _wait_until_ready(cluster: LocalCluster) -> None:
    client = RayJobsClient(cluster.cluster)
    problem = ""

    def is_ready() -> bool:
        nonlocal problem
        for name, process in (("ray", cluster.ray), ("mlflow", cluster.mlflow)):
            if not process.is_alive:
                log = local_cluster_directory() / f"{name}.log"
                raise ServiceUnreachable(f"{name} did not start: {_last_line(log)}", hint=str(log))
        try:
            client.ray_version()
            check_tracking_reachable(cluster.tracking_uri)
        except (ServiceUnreachable, TrackingError) as error:
            problem = error.message
            return False
        return True

    if not wait_until(is_ready, START_TIMEOUT_S, interval=0.2):
        raise ServiceUnreachable(problem, hint=f"logs are in {local_cluster_directory()}")


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return "it left no log"
    return next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")


def down() -> bool:
    """Stop the local cluster after its jobs have saved themselves; return whether there was one."""
    with _locked():
        cluster = running()
        if cluster is not None:
            _end(cluster)
    return cluster is not None


def _end(cluster: LocalCluster) -> None:
    """Stop the jobs and both servers, and remove what belongs to this instance alone."""
    if cluster.ray.is_alive:
        try:
            _stop_jobs(RayJobsClient(cluster.cluster))
        except SumgradError as error:
            _logger.warning("jobs cannot be stopped and end unsaved: %s", error.message)
    cluster.ray.terminate()
    cluster.mlflow.terminate()
    _record_file().unlink(missing_ok=True)
    if Path(cluster.temporary).name.startswith(_TEMPORARY_PREFIX):
        shutil.rmtree(cluster.temporary, ignore_errors=True)
    try:
        config = read_cluster_config()
        if LOCAL_NAME in config.clusters:
            write_cluster_config(config.without(LOCAL_NAME))
    except SumgradError as error:
        _logger.warning("the cluster has ended, but its name stays: %s", error.message)


def _stop_jobs(client: RayJobsClient) -> None:
    running = [each.submission_id for each in client.list_attempts() if not each.has_ended]
    for name in running:
        _logger.info("stopping job %s", name)
        client.stop(name)
    for name in running:
        wait(client, name, timeout=servers.STOP_JOB_TIMEOUT_S)


def status_lines(cluster: LocalCluster) -> list[str]:
    """Return what the user needs to know of the cluster."""

    def state(process: ServerProcess) -> str:
        return f"{'running' if process.is_alive else 'dead'} (process {process.pid})"

    folder = local_cluster_directory()
    return [
        f"Ray      {cluster.address}  {state(cluster.ray)}",
        f"MLflow   {cluster.tracking_uri}  {state(cluster.mlflow)}",
        f"token    {folder / 'token'}",
        f"login    on MLflow's page: the user '{USER}', with the token as the password",
        f"files    {folder}",
    ]
