"""Jobs handed in to a real cluster: one that ``sumgrad cluster up`` runs on this machine."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient

from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.service.client.commands import get_status
from sumgrad.jobs.service.client.ray_api import RayJobsClient
from sumgrad.jobs.service.client.status import Status
from tests.integration.command_line import Finished, Folder
from tests.integration.conftest import make_folder
from tests.integration.gate import free_port
from tests.integration.relay import Relay

if TYPE_CHECKING:
    from mlflow.entities import Run

pytestmark = pytest.mark.ray
#: Flowers on the cluster: the spec of the folder says inline.
THERE = ("flowers.yaml", "--set", "cluster.address=local", "--upload")
LONG = ("--set", "stop.max_epochs=100000", "--set", "checkpoint.every_seconds=0.5")


@dataclass(frozen=True)
class Service:
    """A cluster, and a folder in which somebody uses it."""

    folder: Folder
    port: int
    mlflow_port: int

    @property
    def server(self) -> RayJobsClient:
        """Its job server."""
        return RayJobsClient(
            Cluster(
                f"http://127.0.0.1:{self.port}",
                "local",
                self.mlflow,
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
        """All that it keeps."""
        return Path(self.folder.environment["XDG_STATE_HOME"]) / "sumgrad" / "cluster"

    @property
    def token_file(self) -> Path:
        """What opens Ray and MLflow."""
        return self.state / "token"

    def run_of(self, run_id: str) -> "Run":
        """A run, as MLflow has it."""
        user = f"sumgrad:{self.token_file.read_text()}"
        client = MlflowClient(self.mlflow.replace("://", f"://{user}@"))
        experiments = [each.experiment_id for each in client.search_experiments()]
        (run,) = client.search_runs(experiments, f"attributes.run_name = '{run_id}'")
        return run

    def sumgrad(self, *arguments: str) -> Finished:
        """Run a command."""
        return self.folder.sumgrad(*arguments)

    def wait_for(self, job_id: str, is_so: Callable[[Status], bool]) -> Status:
        """Wait until a job's status is as it should be."""
        give_up = time.monotonic() + 90
        while not is_so(status := get_status(self.server, job_id)[0]):
            assert time.monotonic() < give_up, status
            time.sleep(0.3)
        return status


def sessions(state: Path) -> list[int]:
    """The sessions of the two servers that a cluster has started."""
    found = json.loads((state / "sumgrad" / "cluster" / "cluster.json").read_text())
    return [found["ray"]["pid"], found["mlflow"]["pid"]]


def processes_of(session: int) -> list[str]:
    listed = subprocess.run(
        ["ps", "-o", "stat=,args=", "--sid", str(session)],
        capture_output=True,
        text=True,
        check=False,
    )
    return [line for line in listed.stdout.splitlines() if not line.startswith("Z")]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[Service]:
    path = tmp_path_factory.mktemp("service")
    make_folder(path, database)
    home = path / "home"
    home.mkdir()
    places = ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    environment = {name: str(home / name) for name in places}
    # Of the environment that the tests are run in, nothing may decide where jobs go.
    unset = dict.fromkeys(("SUMGRAD_CONFIG", "SUMGRAD_CLUSTER", "RAY_API_SERVER_ADDRESS"), "")
    environment |= {"HOME": str(home), "RAY_AUTH_TOKEN_PATH": "", "RAY_ADDRESS": ""} | unset
    service = Service(Folder(path, environment), free_port(), free_port())
    up = service.folder.run_process(
        *("cluster", "up", "--cpus", "2", "--port", str(service.port)),
        *("--mlflow-port", str(service.mlflow_port)),
    )
    assert up.code == 0, up.err
    servers = sessions(Path(environment["XDG_STATE_HOME"]))
    try:
        yield service
    finally:
        down = service.folder.run_process("cluster", "down")
    assert down.code == 0, down.err
    assert [processes_of(session) for session in servers] == [[], []]
    assert service.sumgrad("cluster", "status").code == 3


@pytest.fixture(scope="module")
def inline_hash(service: Service) -> str:
    done = service.sumgrad("train", "flowers.yaml", "--json")
    assert done.code == 0, done.err
    return str(done.result["weights_sha256"])


def test_a_job_that_was_handed_in_has_the_bits_of_inline(
    service: Service, inline_hash: str
) -> None:
    sent = service.sumgrad("submit", *THERE, "--wait", "--json")
    assert sent.code == 0, sent.err
    assert (sent.result["state"], sent.result["ray_state"]) == ("FINISHED", "SUCCEEDED")
    result = sent.result["result"]
    assert result["weights_sha256"] == inline_hash
    assert result["tracking_uri"] == f"http://127.0.0.1:{service.mlflow_port}"
    status = service.sumgrad("status", sent.result["id"], "--json").result
    assert (status["state"], status["run_id"]) == ("FINISHED", result["run_id"])
    assert status["differences"] == []


def test_the_token_opens_mlflow_for_whoever_has_it_and_is_told_to_nobody(service: Service) -> None:
    sent = service.sumgrad("submit", *THERE, "--wait", "--json", "--id", "secret")
    assert sent.code == 0, sent.err
    run_id = sent.result["result"]["run_id"]
    run = service.run_of(run_id)
    assert run.info.status == "FINISHED"
    assert run.outputs is not None
    assert len(run.outputs.model_outputs) == 1
    assert len(run.data.metrics) > 3
    fetched = service.sumgrad("evaluate", run_id, "flowers.csv", "--tracking-uri", service.mlflow)
    assert fetched.code == 0, fetched.err
    token = service.token_file.read_text()
    asked = [
        attempt for attempt in service.server.list_attempts() if "secret" in attempt.submission_id
    ]
    told = [
        *(service.sumgrad("status", "secret").out, service.sumgrad("logs", "secret").out),
        *(service.sumgrad("cluster", "list", "--json").out, sent.out, sent.err, fetched.out),
        *(service.sumgrad("cluster", "status").out, service.sumgrad("doctor", "--json").out),
        *(service.sumgrad("submit", *THERE, "--dry-run").out, str(asked), str(run.to_dictionary())),
    ]
    assert not [text for text in told if token in text]
    assert "the user 'sumgrad' and a password: that token" in told[6]
    files = [file for file in service.state.rglob("*") if file.is_file()]
    assert [file for file in files if token.encode() in file.read_bytes()] == [service.token_file]
    everybody = [entry / "cmdline" for entry in Path("/proc").glob("[1-9]*")]
    assert not [file for file in everybody if token.encode() in content(file)]


def content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def test_who_does_not_know_the_token_of_mlflow_is_told_so(service: Service) -> None:
    nowhere = {"SUMGRAD_CONFIG": "/nonexistent", "HOME": "/nonexistent"}
    stranger = Folder(service.folder.path, {**service.folder.environment, **nowhere})
    refused = stranger.sumgrad("evaluate", "0123456789", "x.csv", "--tracking-uri", service.mlflow)
    assert refused.code == 3
    assert f"the MLflow server at {service.mlflow} requires a login" in refused.err
    named = service.server.cluster
    told = Folder(service.folder.path, {**service.folder.environment, "SUMGRAD_CONFIG": "lab.yaml"})
    mlflow = ("--tracking-uri", service.mlflow)
    token = ("--token-file", str(service.token_file))
    assert told.sumgrad("cluster", "add", "lab", named.address, *mlflow, *token).code == 0
    doctor = told.sumgrad("doctor", "--cluster", "lab")
    assert doctor.code == 3
    assert "requires a login, and none is configured" in doctor.out
    status = told.sumgrad("status", "secret", "--cluster", "lab")
    assert "requires a login" in status.out + status.err
    both = ("--tracking-token-file", str(service.token_file))
    assert told.sumgrad("cluster", "add", "lab", named.address, *mlflow, *token, *both).code == 0
    assert told.sumgrad("doctor", "--cluster", "lab").code == 0


def test_the_same_job_twice_is_one_job(service: Service) -> None:
    first = service.sumgrad("submit", *THERE, "--id", "once", "--json")
    assert first.result["is_new"]
    assert not service.sumgrad("submit", *THERE, "--id", "once", "--json").result["is_new"]
    other = service.sumgrad("submit", *THERE, "--id", "once", "--set", "seed=4")
    assert (other.code, "another" in other.err) == (2, True)
    assert service.sumgrad("wait", "once").code == 0
    assert [job["job_id"] for job in service.sumgrad("jobs", "--json").results].count("once") == 1
    assert service.sumgrad("delete", "once").code == 0
    assert "once" not in service.sumgrad("jobs").out
    for command in ("status", "resume"):
        deleted = service.sumgrad(command, "once")
        assert (deleted.code, "job once was deleted from local" in deleted.err) == (2, True)
        assert f"its folder {service.state / 'jobs' / 'once'} on the" in deleted.err
    again = service.sumgrad("submit", *THERE, "--id", "once")
    assert (again.code, "MLflow has a run of an earlier job 'once'" in again.err) == (2, True)


def test_a_job_waits_for_room_and_goes_on_after_it_was_stopped(
    service: Service, inline_hash: str
) -> None:
    both = ("--set", "cluster.workers=2")
    service.sumgrad("submit", *THERE, *LONG, *both, "--id", "first")
    service.wait_for("first", lambda status: status.state == "RUNNING")
    service.sumgrad("submit", *THERE, *both, "--id", "second")
    waiting = service.wait_for("second", lambda status: "waiting for 2" in status.reason)
    assert (waiting.state, "0 of them free" in waiting.reason) == ("PENDING", True)

    assert service.sumgrad("stop", "first").code == 0
    assert service.sumgrad("wait", "first").code == 143
    stopped, run = get_status(service.server, "first")
    assert (stopped.state, stopped.can_resume, run.status) == ("STOPPED", True, "KILLED")
    assert stopped.differences == []

    # Now there is room.
    ended = service.sumgrad("logs", "-f", "second", "--json")
    assert (ended.code, ended.result["result"]["weights_sha256"]) == (0, inline_hash)


def test_a_killed_job_goes_on_with_the_same_bits(service: Service) -> None:
    budget = ("--set", "stop.max_epochs=300", "--set", "checkpoint.every_steps=1")
    expected = service.sumgrad("train", "flowers.yaml", *budget[:2], "--json").result
    service.sumgrad("submit", *THERE, *budget, "--id", "victim")
    # It may compute before MLflow knows of it, and what it does not know it cannot have as running.
    service.wait_for("victim", lambda status: status.heartbeat_age_s is not None)
    service.wait_for("victim", lambda status: status.state == "RUNNING")
    driver = driver_of("victim")
    os.kill(driver, signal.SIGKILL)
    killed = service.wait_for("victim", lambda status: status.end_time is not None)
    assert (killed.state, killed.can_resume) == ("FAILED", True)
    assert "MLflow still as RUNNING" in killed.differences[0]
    assert service.sumgrad("wait", "victim").code == 137

    assert service.sumgrad("resume", "victim").code == 0
    again = service.sumgrad("logs", "-f", "victim", "--json")
    assert again.code == 0, again.err
    assert again.result["result"]["weights_sha256"] == expected["weights_sha256"]
    assert again.result["result"]["run_id"] == killed.run_id
    assert "going on after step" in again.err
    assert service.sumgrad("status", "victim", "--json").result["differences"] == []
    assert service.sumgrad("resume", "victim").code == 2


def driver_of(job_id: str) -> int:
    """The process id of a job's driver on this machine."""
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            environment = (entry / "environ").read_bytes() if b"service.host" in command else b""
        except OSError:
            continue
        if f'"sumgrad.job": "{job_id}"'.encode() in environment and b"/bin/sh" not in command:
            return int(entry.name)
    raise AssertionError("the job has no process")


def test_logs_survive_cut_connections(service: Service) -> None:
    service.sumgrad("submit", *THERE, *LONG, "--id", "talker")
    service.wait_for("talker", lambda status: status.state == "RUNNING")
    relay = Relay(service.port)
    token = service.server.cluster.token_file
    environment = {**service.folder.environment, "RAY_AUTH_TOKEN_PATH": str(token)}
    elsewhere = Folder(service.folder.path, environment)
    following = elsewhere.start("logs", "-f", "talker", "-c", f"127.0.0.1:{relay.port}")
    try:
        for cut in range(2, 5):
            give_up = time.monotonic() + 60
            while relay.connections < 2 * cut:
                assert time.monotonic() < give_up
                time.sleep(0.05)
            relay.cut()
        service.sumgrad("stop", "talker")
        out, err = following.communicate(timeout=60)
    finally:
        following.kill()
        relay.close()
    assert following.returncode == 143, err
    whole = service.sumgrad("logs", "talker").out
    assert out == "".join(
        line for line in whole.splitlines(keepends=True) if not line.startswith("result: ")
    )


def test_who_has_no_token_is_refused(service: Service) -> None:
    nowhere = dict.fromkeys(("HOME", "XDG_CONFIG_HOME"), "/nonexistent")
    stranger = {**service.folder.environment, **nowhere}
    url = f"127.0.0.1:{service.port}"
    for command in (("jobs",), ("submit", "digits"), ("stop", "once"), ("doctor",)):
        refused = Folder(service.folder.path, stranger).sumgrad(*command, "--cluster", url)
        assert refused.code == 3
        assert "requires a token" in refused.err + refused.out
        assert "Traceback" not in refused.err


def test_a_cluster_on_this_machine_listens_on_loopback_alone(service: Service) -> None:
    state = Path(service.folder.environment["XDG_STATE_HOME"])
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--sid", ",".join(map(str, sessions(state)))],
        capture_output=True,
        text=True,
        check=True,
    )
    owners = {int(pid) for pid in listed.stdout.split()}
    sockets = {
        link
        for pid in owners
        for file in Path(f"/proc/{pid}/fd").iterdir()
        if (link := str(file.readlink())).startswith("socket:")
    }
    heard = [
        fields[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if (fields := line.split())[3] == "0A" and f"socket:[{fields[9]}]" in sockets
    ]
    assert heard
    loopback = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
    assert [place for place in heard if not place.startswith(loopback)] == []


def test_local_data_and_local_stores_are_refused(service: Service) -> None:
    refused = service.sumgrad("submit", *THERE[:3])
    assert refused.code == 2
    assert "data.train: flowers.csv is on this machine" in refused.err
    store = service.sumgrad("submit", *THERE, "--set", "tracking.uri=sqlite:///mlflow.db")
    assert (store.code, "a file on this machine" in store.err) == (2, True)


def test_the_doctor_finds_a_sound_cluster_and_a_missing_file(service: Service) -> None:
    sound = service.sumgrad("doctor", "--json")
    assert sound.code == 0, sound.out
    statuses = {check["name"]: check["status"] for check in sound.results}
    assert set(statuses.values()) == {"ok"}, sound.out
    assert {"token", "login", "versions", "nodes", "resources"} <= set(statuses)
    missing = service.sumgrad("doctor", "--data", "/nonexistent/rows.csv")
    assert (missing.code, "cannot read /nonexistent/rows.csv" in missing.out) == (3, True)


def test_up_again_is_the_same_cluster(service: Service) -> None:
    again = service.sumgrad("cluster", "up")
    assert (again.code, "It ran already" in again.out) == (0, True)
    other = service.sumgrad("cluster", "up", "--cpus", "3")
    assert (other.code, "already, with --cpus 2" in other.err) == (2, True)
    listed = service.sumgrad("cluster", "list", "--json").results
    assert [(each["name"], each["is_current"]) for each in listed] == [("local", True)]
