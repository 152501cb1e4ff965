"""Jobs on a real cluster, which ``sumgrad cluster up`` runs on this machine.

One scenario serves most tests. The job *first* uses both CPUs; *once* is submitted and waits;
*first* is stopped (`stopped`); *once* is killed after a checkpoint (`killed`), resumed, and
finishes (`finished_job`). The tests check what each step has printed and left.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from mlflow import MlflowClient

from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.service.client.commands import get_status
from sumgrad.jobs.service.client.ray_api import RayJobsClient
from sumgrad.jobs.service.client.run_view import RunView
from sumgrad.jobs.service.client.status import Status
from sumgrad.jobs.support.polling import wait_until
from tests.integration import chaos
from tests.integration.command_line import Command, Finished, Folder
from tests.integration.conftest import make_folder
from tests.integration.mlflow_proxy import free_port
from tests.integration.relay import Relay

if TYPE_CHECKING:
    from mlflow.entities import Run

pytestmark = pytest.mark.ray
#: Flowers on the cluster; the spec in the folder runs inline.
ON_CLUSTER = ("flowers.yaml", "--set", "cluster.address=local", "--upload")
LONG = ("--set", "stop.max_epochs=100000", "--set", "checkpoint.every_seconds=0.5")
BOTH_CPUS = ("--set", "cluster.workers=2")
#: A thousand steps with a checkpoint each.
SHORT = (*chaos.SPEC, "--set", "stop.max_epochs=40")
ONCE = ("submit", *ON_CLUSTER, *SHORT, *BOTH_CPUS, "--id", "once", "--json")


@dataclass(frozen=True)
class Service:
    """A cluster, and the folder of a user."""

    folder: Folder
    port: int
    mlflow_port: int

    @property
    def client(self) -> RayJobsClient:
        """The client of its job server."""
        return RayJobsClient(
            Cluster(
                address=f"http://127.0.0.1:{self.port}",
                name="local",
                tracking_uri=self.mlflow,
                token_file=self.token_file,
                tracking_token_file=self.token_file,
            )
        )

    @property
    def mlflow(self) -> str:
        """Its MLflow server."""
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def state(self) -> Path:
        """The cluster's own folder."""
        return Path(self.folder.environment["XDG_STATE_HOME"]) / "sumgrad" / "cluster"

    @property
    def token_file(self) -> Path:
        """The token of Ray and MLflow."""
        return self.state / "token"

    def run_of(self, run_id: str) -> "Run":
        """Return a run from MLflow."""
        user = f"sumgrad:{self.token_file.read_text()}"
        client = MlflowClient(self.mlflow.replace("://", f"://{user}@"))
        experiments = [each.experiment_id for each in client.search_experiments()]
        (run,) = client.search_runs(experiments, f"attributes.run_name = '{run_id}'")
        return run

    def sumgrad(self, *arguments: str) -> Finished:
        """Run a command."""
        return self.folder.sumgrad(*arguments)

    def wait_for(self, job_id: str, condition: Callable[[Status], bool]) -> Status:
        """Return a job's status as soon as it meets a condition."""
        status = get_status(self.client, job_id)[0]

        def is_met() -> bool:
            nonlocal status
            status = get_status(self.client, job_id)[0]
            return condition(status)

        assert wait_until(is_met, 180, interval=1.0), status
        return status


@dataclass(frozen=True)
class Stopped:
    """The job "first", which had both CPUs until it was stopped; "once" waited for them."""

    waiting: Status  #: The status of "once" until then.
    submitted: Finished  #: What `submit` printed of "once".
    followed: Finished  #: What `logs -f first` printed through connections that were cut.
    exit_code: int  #: Of `wait`.
    status: Status
    run: RunView


@dataclass(frozen=True)
class Killed:
    """The first attempt of the job "once", whose driver was killed after its first checkpoint."""

    status: Status
    exit_code: int  #: Of `wait`.


def sessions(state: Path) -> list[int]:
    """Return the sessions of the two servers of a cluster."""
    record = json.loads((state / "sumgrad" / "cluster" / "cluster.json").read_text())
    return [record["ray"]["pid"], record["mlflow"]["pid"]]


def processes_of(session: int) -> list[psutil.Process]:
    """Return the running processes of a session."""
    found = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            is_zombie = process.status() == psutil.STATUS_ZOMBIE
            if os.getsid(process.pid) == session and not is_zombie:
                found.append(process)
    return found


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[Service]:
    path = tmp_path_factory.mktemp("service")
    make_folder(path, database)
    home = path / "home"
    home.mkdir()
    folders = ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    environment = {name: str(home / name) for name in folders}
    # Variables of the caller must not select another cluster.
    unset = dict.fromkeys(("SUMGRAD_CONFIG", "SUMGRAD_CLUSTER", "RAY_API_SERVER_ADDRESS"), "")
    environment |= {"HOME": str(home), "RAY_AUTH_TOKEN_PATH": "", "RAY_ADDRESS": ""} | unset
    service = Service(Folder(path, environment), free_port(), free_port())
    up = service.folder.run_installed(
        *("cluster", "up", "--cpus", "2", "--port", str(service.port)),
        *("--mlflow-port", str(service.mlflow_port)),
    )
    assert up.code == 0, up.err
    servers = sessions(Path(environment["XDG_STATE_HOME"]))
    try:
        yield service
    finally:
        down = service.folder.run_installed("cluster", "down")
    assert down.code == 0, down.err
    assert [processes_of(session) for session in servers] == [[], []]
    assert service.sumgrad("cluster", "status").code == 3


def driver_of(job_id: str) -> int:
    """Return the process id of a job's driver on this machine."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "sumgrad.jobs.service.host" not in command:
            continue
        if f'"sumgrad.job": "{job_id}"' in str(process.environ()):
            return int(process.pid)
    raise AssertionError("the job has no process")


@contextmanager
def frozen(driver: int) -> Iterator[None]:
    """Freeze a job's driver, so that it uses no CPU time while a test waits for something else."""
    os.kill(driver, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(driver, signal.SIGCONT)


def follow_through_cuts(service: Service, relay: Relay) -> Command:
    """Follow the log of the job "first" as the user of another machine."""
    token = service.client.cluster.token_file
    environment = {**service.folder.environment, "RAY_AUTH_TOKEN_PATH": str(token)}
    elsewhere = Folder(service.folder.path, environment)
    return elsewhere.start("logs", "-f", "first", "-c", f"127.0.0.1:{relay.port}")


@pytest.fixture(scope="module")
def stopped(service: Service) -> Iterator[Stopped]:
    """Run the job "first" until "once" waits for its CPUs; "once" is frozen after a checkpoint."""
    service.sumgrad("submit", *ON_CLUSTER, *LONG, *BOTH_CPUS, "--id", "first")
    service.wait_for("first", lambda status: status.state == "RUNNING")
    relay = Relay(service.port)
    with ExitStack() as stack:
        stack.callback(relay.close)
        with frozen(driver_of("first")):
            submitted = service.sumgrad(*ONCE)
            waiting = service.wait_for("once", is_waiting)
            following = follow_through_cuts(service, relay)
            stack.callback(following.kill)
            # The fourth connection of a new follower is the one that reads the log.
            assert wait_until(lambda: relay.connections >= 4, 60)
        for cut in range(2, 5):
            assert wait_until(lambda: relay.connections >= 2 * cut, 60)  # noqa: B023
            relay.cut()
        driver = driver_of("once")
        assert service.sumgrad("stop", "first").code == 0
        runs = service.state / "jobs" / "once" / "runs"
        found = wait_until(lambda: [*runs.glob("*/checkpoints/step-*")], 180, interval=0.01)
        stack.enter_context(frozen(driver))
        assert found
        exit_code = service.sumgrad("wait", "first").code
        out, err = following.communicate(timeout=60)
        followed = Finished(following.returncode, out, err)
        status, run = get_status(service.client, "first")
        yield Stopped(waiting, submitted, followed, exit_code, status, run)


def is_waiting(status: Status) -> bool:
    """Whether a job that MLflow knows waits for two CPUs."""
    return "waiting for 2" in status.reason and status.heartbeat_age_s is not None


@pytest.fixture(scope="module")
def killed(service: Service, stopped: Stopped) -> Killed:
    assert get_status(service.client, "once")[0].end_time is None
    os.kill(driver_of("once"), signal.SIGKILL)
    status = service.wait_for("once", lambda status: status.end_time is not None)
    return Killed(status, service.sumgrad("wait", "once").code)


@pytest.fixture(scope="module")
def finished_job(service: Service, killed: Killed) -> Finished:
    """What `submit --wait` printed of the job "once", which was resumed."""
    assert service.sumgrad("resume", "once").code == 0
    sent = service.sumgrad(*ONCE, "--wait")
    assert sent.code == 0, sent.err
    return sent


@pytest.fixture(scope="module")
def inline_hash(service: Service) -> str:
    done = service.sumgrad("train", "flowers.yaml", *SHORT, "--json")
    assert done.code == 0, done.err
    return str(done.result["weights_sha256"])


@pytest.fixture(scope="module")
def diagnosis(service: Service) -> Finished:
    """What `doctor` printed of the healthy cluster."""
    return service.sumgrad("doctor", "--json")


def test_a_job_waits_for_free_cpus_until_another_is_stopped(stopped: Stopped) -> None:
    waiting = stopped.waiting
    assert (waiting.state, "0 free" in waiting.reason) == ("PENDING", True)
    assert stopped.exit_code == 143
    status = stopped.status
    assert (status.state, status.can_resume) == ("STOPPED", True)
    assert (stopped.run.status, status.differences) == ("KILLED", [])


def test_logs_survive_cut_connections(service: Service, stopped: Stopped) -> None:
    followed = stopped.followed
    assert followed.code == 143, followed.err
    whole = service.sumgrad("logs", "first").out
    assert followed.out == "".join(
        line for line in whole.splitlines(keepends=True) if not line.startswith("result: ")
    )


def test_a_killed_job_is_resumed_with_the_same_weights(
    service: Service, killed: Killed, finished_job: Finished, inline_hash: str
) -> None:
    assert (killed.status.state, killed.status.can_resume) == ("FAILED", True)
    assert "MLflow still as RUNNING" in killed.status.differences[0]
    assert killed.exit_code == 137
    again = service.sumgrad("logs", "-f", "once", "--json")
    assert again.code == 0, again.err
    assert again.result == finished_job.result
    assert again.result["result"]["weights_sha256"] == inline_hash
    assert again.result["result"]["run_id"] == killed.status.run_id
    assert "resuming after step" in again.err
    assert service.sumgrad("resume", "once").code == 2


def test_a_submitted_job_has_the_weights_of_an_inline_run(
    service: Service, inline_hash: str, finished_job: Finished
) -> None:
    sent = finished_job
    assert (sent.result["state"], sent.result["ray_state"]) == ("FINISHED", "SUCCEEDED")
    result = sent.result["result"]
    assert result["weights_sha256"] == inline_hash
    assert result["tracking_uri"] == f"http://127.0.0.1:{service.mlflow_port}"
    status = service.sumgrad("status", sent.result["id"], "--json").result
    assert (status["state"], status["run_id"]) == ("FINISHED", result["run_id"])
    assert status["differences"] == []


def test_the_token_opens_mlflow_and_is_printed_and_stored_nowhere(
    service: Service, finished_job: Finished, diagnosis: Finished
) -> None:
    sent = finished_job
    run_id = sent.result["result"]["run_id"]
    run = service.run_of(run_id)
    assert run.info.status == "FINISHED"
    assert run.outputs is not None
    assert len(run.outputs.model_outputs) == 1
    assert len(run.data.metrics) > 3
    fetched = service.sumgrad("evaluate", run_id, "flowers.csv", "--tracking-uri", service.mlflow)
    assert fetched.code == 0, fetched.err
    token = service.token_file.read_text()
    attempts = [each for each in service.client.list_attempts() if "once" in each.submission_id]
    texts = [
        *(service.sumgrad("status", "once").out, service.sumgrad("logs", "once").out),
        *(service.sumgrad("cluster", "list", "--json").out, sent.out, sent.err, fetched.out),
        *(service.sumgrad("cluster", "status").out, diagnosis.out),
        *(
            service.sumgrad("submit", *ON_CLUSTER, "--dry-run").out,
            str(attempts),
            str(run.to_dictionary()),
        ),
    ]
    # Other users of the machine can read the command lines of MLflow's server.
    (_ray, mlflow) = sessions(Path(service.folder.environment["XDG_STATE_HOME"]))
    servers = processes_of(mlflow)
    assert servers
    texts += [str(each.cmdline()) + str(each.environ()) for each in servers]
    assert not [text for text in texts if token in text]
    assert "the user 'sumgrad', with the token as the password" in texts[6]
    files = [file for file in service.state.rglob("*") if file.is_file()]
    assert [file for file in files if token.encode() in file.read_bytes()] == [service.token_file]
    commands = [str(process.info["cmdline"]) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if token in command]


def test_a_missing_token_for_mlflow_and_a_missing_file_are_reported(
    service: Service, finished_job: Finished
) -> None:
    nowhere = {"SUMGRAD_CONFIG": "/nonexistent", "HOME": "/nonexistent"}
    other_user = Folder(service.folder.path, {**service.folder.environment, **nowhere})
    refused = other_user.sumgrad(
        "evaluate", "0123456789", "x.csv", "--tracking-uri", service.mlflow
    )
    assert refused.code == 3
    assert f"the MLflow server at {service.mlflow} requires a login" in refused.err
    named = service.client.cluster
    lab = Folder(service.folder.path, {**service.folder.environment, "SUMGRAD_CONFIG": "lab.yaml"})
    mlflow = ("--tracking-uri", service.mlflow)
    token = ("--token-file", str(service.token_file))
    assert lab.sumgrad("cluster", "add", "lab", named.address, *mlflow, *token).code == 0
    doctor = lab.sumgrad("doctor", "--cluster", "lab", "--data", "/nonexistent/rows.csv", "--json")
    assert doctor.code == 3
    failed = {each["name"]: each["message"] for each in doctor.results if each["status"] == "FAIL"}
    assert set(failed) == {"MLflow from here", "data"}
    assert "requires a login, and none is configured" in failed["MLflow from here"]
    assert "cannot read /nonexistent/rows.csv" in failed["data"]
    status = lab.sumgrad("status", finished_job.result["id"], "--cluster", "lab")
    assert "requires a login" in status.out + status.err
    both = ("--tracking-token-file", str(service.token_file))
    assert lab.sumgrad("cluster", "add", "lab", named.address, *mlflow, *token, *both).code == 0
    status = lab.sumgrad("status", finished_job.result["id"], "--cluster", "lab", "--json")
    assert (status.code, status.result["differences"]) == (0, [])


def test_a_job_submitted_twice_is_one_job(
    service: Service, stopped: Stopped, finished_job: Finished
) -> None:
    assert "job once submitted: local" in stopped.submitted.err
    assert stopped.submitted.result["is_new"]
    assert "job once was submitted before: local" in finished_job.err
    assert not service.sumgrad(*ONCE).result["is_new"]
    other = service.sumgrad(*ONCE, "--set", "seed=4")
    assert (other.code, "another" in other.err) == (2, True)
    assert service.sumgrad("wait", "once").code == 0
    assert [job["job_id"] for job in service.sumgrad("jobs", "--json").results].count("once") == 1
    assert service.sumgrad("delete", "once").code == 0
    assert "once" not in service.sumgrad("jobs").out
    for command in ("status", "resume"):
        deleted = service.sumgrad(command, "once")
        assert (deleted.code, "job once was deleted from local" in deleted.err) == (2, True)
        assert f"its folder {service.state / 'jobs' / 'once'} on the" in deleted.err
    again = service.sumgrad(*ONCE)
    assert (again.code, "MLflow has a run of an earlier job 'once'" in again.err) == (2, True)


def test_commands_without_the_token_are_refused(service: Service) -> None:
    nowhere = dict.fromkeys(("HOME", "XDG_CONFIG_HOME"), "/nonexistent")
    environment = {**service.folder.environment, **nowhere}
    url = f"127.0.0.1:{service.port}"
    for command in (("jobs",), ("submit", "digits"), ("stop", "once"), ("doctor",)):
        refused = Folder(service.folder.path, environment).sumgrad(*command, "--cluster", url)
        assert refused.code == 3
        assert "requires a token" in refused.err + refused.out
        assert "Traceback" not in refused.err


def test_a_cluster_on_this_machine_listens_on_loopback_alone(service: Service) -> None:
    state = Path(service.folder.environment["XDG_STATE_HOME"])
    addresses = [
        connection.laddr.ip
        for session in sessions(state)
        for process in processes_of(session)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert addresses
    assert set(addresses) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_local_data_and_local_stores_are_refused(service: Service) -> None:
    refused = service.sumgrad("submit", *ON_CLUSTER[:3])
    assert refused.code == 2
    assert "data.train: flowers.csv is on this machine" in refused.err
    store = service.sumgrad("submit", *ON_CLUSTER, "--set", "tracking.uri=sqlite:///mlflow.db")
    assert (store.code, "a file on this machine" in store.err) == (2, True)


def test_doctor_passes_a_healthy_cluster(diagnosis: Finished) -> None:
    assert diagnosis.code == 0, diagnosis.out
    statuses = {check["name"]: check["status"] for check in diagnosis.results}
    assert set(statuses.values()) == {"ok"}, diagnosis.out
    assert {"token", "login", "versions", "nodes", "resources"} <= set(statuses)


def test_a_second_up_finds_the_same_cluster(service: Service) -> None:
    again = service.sumgrad("cluster", "up")
    assert (again.code, "It was already running." in again.out) == (0, True)
    other = service.sumgrad("cluster", "up", "--cpus", "3")
    assert (other.code, "already, with --cpus 2" in other.err) == (2, True)
    listed = service.sumgrad("cluster", "list", "--json").results
    assert [(each["name"], each["is_current"]) for each in listed] == [("local", True)]
