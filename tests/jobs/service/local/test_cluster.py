"""Servers that are started, watched and ended; small programs stand in for Ray and MLflow."""

import importlib.util
import json
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sumgrad.cluster.ray_backend import session as ray_session
from sumgrad.jobs.config.clusters import (
    Cluster,
    ClusterConfig,
    cluster_config_path,
    read_cluster_config,
    select_cluster,
    write_cluster_config,
)
from sumgrad.jobs.errors import ClusterConfigError, ServiceUnreachable
from sumgrad.jobs.service.client.ray_api import RUNNING, STOPPED, Attempt
from sumgrad.jobs.service.local import cluster, processes, servers
from sumgrad.jobs.service.local.cluster import (
    NAME,
    LocalCluster,
    down,
    folder,
    running,
    status_lines,
    up,
)
from sumgrad.jobs.service.versions import INSTALL_HINT
from tests.jobs.service.living import is_alive, wait_until_dead
from tests.jobs.service.stand_ins import Answer, FakeRayJobsClient, attempt, free_port, site

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

#: Answers as both servers do; what it starts says so in a file, and does not end by itself.
SERVER = """
import http.server, os, subprocess, sys
port, name = int(sys.argv[1]), sys.argv[2]
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(f"{name}.child", "w").write(str(child.pid))
if os.environ.get("RAY_AUTH_TOKEN"):
    sys.exit("it was given another cluster's token")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"ray_version": "2.60.0", "session_name": "s"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
#: Leaves something behind, and ends.
DIES = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(f"{sys.argv[1]}.child", "w").write(str(child.pid))
print("starting")
print("no room for it")
print()
sys.exit(1)
"""


def python(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-S", "-c", program, *map(str, arguments)]


class Commands:
    """What is started in the place of Ray and MLflow."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ray: Callable[[int], list[str]] = lambda port: python(SERVER, port, "ray")
        self.mlflow: Callable[[int], list[str]] = lambda port: python(SERVER, port, "mlflow")
        self.port, self.mlflow_port = free_port(), free_port()
        self.temporary = Path("temporary").absolute()
        self.temporary.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(self.temporary))
        # No sockets are made here, whose names could be too long.
        monkeypatch.setattr(ray_session, "_LONGEST_TEMPORARY", 1000)
        monkeypatch.setattr(servers, "mlflow_command", lambda place, token, port: self.mlflow(port))
        monkeypatch.setattr(servers, "ray_command", lambda port, cpus: self.ray(port))
        monkeypatch.setattr(cluster, "_stop_jobs", lambda server, note: None)

    def up(self, note: Callable[[str], None] = lambda _: None) -> tuple[LocalCluster, bool]:
        return up(note, port=self.port, mlflow_port=self.mlflow_port)


def child_of(name: str) -> int:
    path = folder() / f"{name}.child"
    give_up = time.monotonic() + 10
    while not path.exists() or not path.read_text():
        assert time.monotonic() < give_up
        time.sleep(0.01)
    return int(path.read_text())


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Iterator[Commands]:
    yield Commands(monkeypatch)
    for path in folder().glob("*.child"):
        assert not is_alive(int(path.read_text())), f"{path.name} is left running"


def test_what_is_started_and_ended(commands: Commands, home: Path) -> None:
    notes: list[str] = []
    there, is_new = commands.up(notes.append)
    assert is_new
    assert there == running()
    assert there.address == f"http://127.0.0.1:{commands.port}"
    assert there.tracking_uri == f"http://127.0.0.1:{commands.mlflow_port}"
    # Ray lets everybody into its own folder, and so it is in one that is closed.
    assert Path(there.temporary).stat().st_mode & 0o777 == 0o700
    chosen = select_cluster(None)
    assert chosen == there.cluster
    assert chosen.token() == (folder() / "token").read_text()
    assert len(chosen.token() or "") == 64
    assert stat.S_IMODE((folder() / "token").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder().stat().st_mode) == 0o700
    assert folder() == home / ".local/state/sumgrad/cluster"
    assert chosen.login is not None
    assert chosen.login.is_for(there.tracking_uri)
    assert chosen.login.password() == chosen.token()
    assert [line.split()[2] for line in status_lines(there)[:2]] == ["runs", "runs"]
    told = "\n".join(status_lines(there))
    assert "the user 'sumgrad' and a password: that token" in told
    assert chosen.login.password() not in told + (folder() / "cluster.json").read_text()

    assert commands.up() == (there, False)
    assert down(notes.append)
    assert running() is None
    assert not there.ray.is_alive
    assert not there.mlflow.is_alive
    assert not Path(there.temporary).exists()
    assert read_cluster_config() == ClusterConfig(None, {})
    assert not down()
    assert "has died" in status_lines(there)[0]


def test_the_token_stays_the_same(commands: Commands) -> None:
    commands.up()
    token = (folder() / "token").read_text()
    down()
    commands.up()
    assert (folder() / "token").read_text() == token
    down()


def test_a_token_of_another_cluster_is_not_handed_on(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-another-cluster")
    commands.up()
    down()


def test_other_clusters_names_are_kept(commands: Commands) -> None:
    lab = Cluster("http://lab:1", "lab")
    write_cluster_config(ClusterConfig("lab", {"lab": lab}))
    commands.up()
    assert read_cluster_config().current == NAME
    down()
    assert read_cluster_config() == ClusterConfig(None, {"lab": lab})


def test_what_is_left_of_the_last_one_is_ended_first(commands: Commands) -> None:
    there, _ = commands.up()
    os.kill(there.ray.pid, signal.SIGKILL)
    wait_until_dead(there.ray.pid)
    orphan = child_of("ray")
    assert is_alive(orphan)
    assert not there.ray.is_alive
    notes: list[str] = []
    again, is_new = commands.up(notes.append)
    assert is_new
    assert notes[0] == "Ray has died: ending what is left of it"
    assert not is_alive(orphan)
    assert not there.mlflow.is_alive
    assert again.mlflow.is_alive
    down()


def test_where_mlflow_alone_has_died_ray_goes_on(commands: Commands) -> None:
    there, _ = commands.up()
    os.kill(there.mlflow.pid, signal.SIGKILL)
    wait_until_dead(there.mlflow.pid)
    notes: list[str] = []
    again, is_new = commands.up(notes.append)
    assert (again.ray, is_new) == (there.ray, False)
    assert again.ray.is_alive
    assert again.mlflow.is_alive
    assert again.mlflow != there.mlflow
    assert running() == again
    assert notes == ["MLflow has died: starting it again"]
    down()


def test_where_mlflow_has_died_a_stranger_at_its_port_is_not_shown_the_token(
    commands: Commands,
) -> None:
    there, _ = commands.up()
    os.kill(there.mlflow.pid, signal.SIGKILL)
    wait_until_dead(there.mlflow.pid)
    os.kill(child_of("mlflow"), signal.SIGKILL)
    with site({"/health": Answer()}, commands.mlflow_port) as stranger:
        with pytest.raises(ServiceUnreachable, match=f"port {commands.mlflow_port}, for MLflow"):
            commands.up()
        assert stranger.asked == []
    down()


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"port": 1}, "--port {0.port}"),
        ({"mlflow_port": 2}, "--mlflow-port {0.mlflow_port}"),
        ({"cpus": 3}, "--cpus for all of them"),
        ({"port": 1, "cpus": 3}, "--port {0.port}, --cpus for all of them"),
    ],
)
def test_one_that_runs_otherwise_than_it_is_wanted(
    wanted: dict[str, int], told: str, commands: Commands
) -> None:
    there, _ = commands.up()
    with pytest.raises(ClusterConfigError) as caught:
        up(lambda _: None, **wanted)
    assert caught.value.message.endswith(f"already, with {told.format(commands)}")
    assert "sumgrad cluster down" in caught.value.hint
    assert up(lambda _: None) == (there, False), "what is not said may be anything"
    assert commands.up() == (there, False)
    down()


def test_the_cpus_of_one_that_runs_are_known(commands: Commands) -> None:
    ours = {"port": commands.port, "mlflow_port": commands.mlflow_port}
    there, _ = up(lambda _: None, cpus=2, **ours)
    assert up(lambda _: None, cpus=2) == (there, False)
    with pytest.raises(ClusterConfigError, match="with --cpus 2"):
        up(lambda _: None, cpus=3)
    down()


@pytest.mark.parametrize("which", ["ray", "mlflow"])
def test_a_server_that_dies_at_once(which: str, commands: Commands) -> None:
    setattr(commands, which, lambda port: python(DIES, which))
    with pytest.raises(ServiceUnreachable, match=f"{which} did not start: no room") as caught:
        commands.up()
    assert caught.value.hint == str(folder() / f"{which}.log")
    assert running() is None
    assert read_cluster_config() == ClusterConfig(None, {})
    assert not is_alive(child_of(which))
    assert not list(commands.temporary.iterdir())


def test_a_program_that_is_not_there(commands: Commands) -> None:
    commands.ray = lambda port: ["/nowhere/ray"]
    with pytest.raises(OSError, match="/nowhere/ray"):
        commands.up()
    assert running() is None
    assert not list(commands.temporary.iterdir())


def test_a_server_that_never_answers_is_given_up(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "PATIENCE_S", 0.2)
    monkeypatch.setattr(processes, "STOP_S", 2.0)
    commands.ray = lambda port: python("import time; time.sleep(600)")
    with pytest.raises(ServiceUnreachable, match="no cluster answers") as caught:
        commands.up()
    assert str(folder()) in caught.value.hint
    assert running() is None


@pytest.mark.parametrize("which", ["port", "mlflow_port"])
def test_a_port_that_is_taken(which: str, commands: Commands) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        setattr(commands, which, number)
        with pytest.raises(ServiceUnreachable, match=f"port {number}, for .* in use") as caught:
            commands.up()
    assert "--port" in caught.value.hint
    assert not folder().exists()
    assert running() is None


def test_without_rays_dashboard(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *more: None if name == "aiohttp_cors" else find(name, *more),
    )
    with pytest.raises(ServiceUnreachable, match="is not installed here") as caught:
        commands.up()
    assert caught.value.hint == INSTALL_HINT
    assert not folder().exists()


def test_a_damaged_file_of_names_is_told_before_anything_is_started(commands: Commands) -> None:
    cluster_config_path().parent.mkdir(parents=True)
    cluster_config_path().write_text("clusters: 3\n")
    with pytest.raises(ClusterConfigError):
        commands.up()
    assert running() is None
    assert not list(folder().glob("*.child"))


SOUND = {
    "address": "http://127.0.0.1:1",
    "tracking_uri": "http://127.0.0.1:2",
    "temporary": "/tmp/sumgrad-up-x",
    "ray": {"pid": 2**22 + 1, "began": 1},
    "mlflow": {"pid": 2**22 + 2, "began": 1},
}


def keep(text: str) -> None:
    folder().mkdir(parents=True, exist_ok=True)
    (folder() / "cluster.json").write_text(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "{}", "[" * 100_000, json.dumps(SOUND | {"ray": None})),
        *(json.dumps(SOUND | {"ray": {"pid": pid, "began": 1}}) for pid in (0, -1, 1, "x", None)),
        json.dumps(SOUND | {"cpus": "many"}),
        *(json.dumps(SOUND | {"mlflow": {"pid": 5}}), json.dumps(SOUND | {"mlflow": [5, 6]})),
        json.dumps({key: value for key, value in SOUND.items() if key != "temporary"}),
    ],
)
def test_a_damaged_file_of_what_runs(text: str) -> None:
    keep(text)
    assert running() is None
    assert not down()


def test_a_file_of_processes_that_are_gone() -> None:
    keep(json.dumps(SOUND))
    there = running()
    assert there is not None
    assert not there.ray.is_alive
    assert down()
    assert running() is None


def test_only_a_folder_of_ours_is_removed(tmp_path: Path) -> None:
    kept = tmp_path / "precious"
    kept.mkdir()
    keep(json.dumps(SOUND | {"temporary": str(kept)}))
    assert down()
    assert kept.is_dir()


class Stopping(FakeRayJobsClient):
    """Jobs that end once they are told to."""

    def stop(self, submission_id: str) -> None:
        super().stop(submission_id)
        found: Attempt = self.memory.attempts[submission_id]
        self.memory.attempts[submission_id] = replace(found, state=STOPPED)


def test_jobs_are_told_to_end_first() -> None:
    server = Stopping(attempt("a-1", RUNNING), attempt("b-1", STOPPED), attempt("c-1", RUNNING))
    notes: list[str] = []
    cluster._stop_jobs(server, notes.append)
    assert notes == ["stopping job a-1", "stopping job c-1"]
    assert [call for call in server.memory.calls if call.startswith("stop")] == [
        "stop a-1",
        "stop c-1",
    ]
    assert server.memory.calls[-1] == "attempt c-1"


def test_a_damaged_file_of_names_does_not_keep_it_from_ending(commands: Commands) -> None:
    there, _ = commands.up()
    cluster_config_path().write_text("clusters: 3\n")
    notes: list[str] = []
    assert down(notes.append)
    assert not there.ray.is_alive
    assert notes[0].startswith("it was ended, and its name stays")
