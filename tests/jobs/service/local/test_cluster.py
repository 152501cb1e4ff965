"""`sumgrad cluster up` and `down`, with small programs instead of Ray and MLflow."""

import importlib.util
import json
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sumgrad.cluster import temporary
from sumgrad.jobs.config.clusters import (
    LOCAL_NAME,
    Cluster,
    ClusterConfig,
    cluster_config_path,
    read_cluster_config,
    select_cluster,
    write_cluster_config,
)
from sumgrad.jobs.config.directories import local_cluster_directory
from sumgrad.jobs.errors import ClusterConfigError, ServiceUnreachable
from sumgrad.jobs.service.local import cluster, processes, servers
from sumgrad.jobs.service.local.cluster import (
    LocalCluster,
    down,
    running,
    status_lines,
    up,
)
from sumgrad.jobs.service.states import RUNNING, STOPPED, Attempt
from sumgrad.jobs.service.versions import INSTALL_HINT
from sumgrad.jobs.support.polling import wait_until
from tests.jobs.service.fakes import Answer, FakeRayJobsClient, attempt, free_port, site
from tests.jobs.service.process_checks import is_alive, wait_until_dead

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

#: Starts a child, writes the child's id into a file, and answers as both servers do.
SERVER = """
import http.server, os, subprocess, sys
port, name = int(sys.argv[1]), sys.argv[2]
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
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
#: Leaves a child behind and fails.
FAILS = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
open(f"{sys.argv[1]}.child", "w").write(str(child.pid))
print("starting\\nout of memory\\n")
sys.exit(1)
"""


def python(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-S", "-c", program, *map(str, arguments)]


class Servers:
    """The programs that run instead of Ray and MLflow."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ray: Callable[[int], list[str]] = lambda port: python(SERVER, port, "ray")
        self.mlflow: Callable[[int], list[str]] = lambda port: python(SERVER, port, "mlflow")
        self.port, self.mlflow_port = free_port(), free_port()
        self.temporary = Path("temporary").absolute()
        self.temporary.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(self.temporary))
        # No sockets are made here, so long names do no harm.
        monkeypatch.setattr(temporary, "_MAX_PARENT_LENGTH", 1000)
        monkeypatch.setattr(
            servers, "mlflow_command", lambda folder, token, port: self.mlflow(port)
        )
        monkeypatch.setattr(servers, "ray_command", lambda port, cpus: self.ray(port))
        monkeypatch.setattr(cluster, "_stop_jobs", lambda client: None)

    def up(self, **options: int) -> tuple[LocalCluster, bool]:
        return up(**({"port": self.port, "mlflow_port": self.mlflow_port} | options))


def child_of(name: str) -> int:
    file = local_cluster_directory() / f"{name}.child"
    assert wait_until(lambda: file.exists() and file.read_text(), 10, interval=0.01)
    return int(file.read_text())


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    """Programs for a cluster, which is taken down in the end."""
    yield Servers(monkeypatch)
    down()
    for file in local_cluster_directory().glob("*.child"):
        assert not is_alive(int(file.read_text())), f"{file.name} is left running"


def test_up_starts_both_servers_and_down_ends_them(local: Servers, home: Path) -> None:
    started, is_new = local.up()
    assert is_new
    assert started.is_alive
    assert started == running()
    assert started.address == f"http://127.0.0.1:{local.port}"
    assert started.tracking_uri == f"http://127.0.0.1:{local.mlflow_port}"
    folder = local_cluster_directory()
    assert folder == home / ".local/state/sumgrad/cluster"
    assert local.up() == (started, False)

    assert down()
    assert running() is None
    assert not started.ray.is_alive
    assert not started.mlflow.is_alive
    assert not Path(started.temporary).exists()
    assert read_cluster_config() == ClusterConfig()
    assert not down()
    assert "dead" in status_lines(started)[0]


def test_the_cluster_is_selected_and_its_files_are_private(local: Servers) -> None:
    started, _ = local.up()
    folder = local_cluster_directory()
    selected = select_cluster(None)
    assert selected == started.cluster
    token = (folder / "token").read_text()
    assert selected.token() == token
    assert len(token) == 64
    assert selected.login is not None
    assert selected.login.is_for(started.tracking_uri)
    assert selected.login.password() == token
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in (folder, folder / "token", Path(started.temporary))
    }
    assert list(modes.values()) == [0o700, 0o600, 0o700]
    lines = status_lines(started)
    assert all("running" in line for line in lines[:2])
    assert token not in "\n".join(lines) + (folder / "cluster.json").read_text()

    down()
    again, _ = local.up()
    assert again.cluster.token() == token


def test_the_token_of_another_cluster_is_not_passed_on(
    local: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-another-cluster")
    local.up()


def test_other_clusters_keep_their_names(local: Servers) -> None:
    lab = Cluster(address="http://lab:1", name="lab")
    write_cluster_config(ClusterConfig(current="lab", clusters={"lab": lab}))
    local.up()
    assert read_cluster_config().current == LOCAL_NAME
    down()
    assert read_cluster_config() == ClusterConfig(current=None, clusters={"lab": lab})


def test_two_commands_at_the_same_time_start_one_cluster(
    local: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2)
    check_ports = servers.check_ports

    def check_together(*ports: int) -> None:
        # Without the lock, both find the ports free.
        with suppress(threading.BrokenBarrierError):
            both.wait(0.5)
        check_ports(*ports)

    monkeypatch.setattr(servers, "check_ports", check_together)
    with ThreadPoolExecutor(2) as threads:
        (first, is_first_new), (second, is_second_new) = threads.map(lambda _: local.up(), range(2))
    assert first == second == running()
    assert first.is_alive
    assert {is_first_new, is_second_new} == {True, False}


def test_down_waits_for_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sumgrad")
    with ThreadPoolExecutor(1) as thread:
        with cluster._locked():
            ended = thread.submit(down)
            assert wait_until(lambda: bool(caplog.messages), 10, interval=0.01)
            write_record(json.dumps(RECORD))
        assert ended.result(10)


def test_up_ends_what_a_dead_cluster_left(local: Servers, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sumgrad")
    dead, _ = local.up()
    os.kill(dead.ray.pid, signal.SIGKILL)
    wait_until_dead(dead.ray.pid)
    orphan = child_of("ray")
    assert is_alive(orphan)
    caplog.clear()
    again, is_new = local.up()
    assert is_new
    assert caplog.messages[0] == "Ray has ended unexpectedly: stopping the rest of the cluster"
    assert not is_alive(orphan)
    assert not dead.mlflow.is_alive
    assert again.mlflow.is_alive


def test_up_starts_a_dead_mlflow_again_and_leaves_ray_running(
    local: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sumgrad")
    before, _ = local.up()
    os.kill(before.mlflow.pid, signal.SIGKILL)
    wait_until_dead(before.mlflow.pid)
    after, is_new = local.up()
    assert (after.ray, is_new) == (before.ray, False)
    assert after.is_alive
    assert after.mlflow != before.mlflow
    assert running() == after
    assert caplog.messages[-1] == "MLflow has died: starting it again"


def test_another_program_at_the_port_of_a_dead_mlflow_does_not_get_the_token(
    local: Servers,
) -> None:
    started, _ = local.up()
    os.kill(started.mlflow.pid, signal.SIGKILL)
    wait_until_dead(started.mlflow.pid)
    os.kill(child_of("mlflow"), signal.SIGKILL)
    with site({"/health": Answer()}, local.mlflow_port) as other:
        with pytest.raises(ClusterConfigError, match=f"port {local.mlflow_port}, for MLflow"):
            local.up()
        assert other.asked == []


def test_other_options_than_those_of_the_running_cluster_are_refused(local: Servers) -> None:
    started = local.up()[0]
    for options, text in (
        ({"port": 1}, f"--port {local.port}"),
        ({"mlflow_port": 2}, f"--mlflow-port {local.mlflow_port}"),
        ({"cpus": 3}, "--cpus for all of them"),
        ({"port": 1, "cpus": 3}, f"--port {local.port}, --cpus for all of them"),
    ):
        with pytest.raises(ClusterConfigError) as caught:
            up(**options)
        assert caught.value.message.endswith(f"already, with {text}")
        assert "sumgrad cluster down" in caught.value.hint
    assert up() == (started, False)


def test_the_cpus_of_the_running_cluster_are_known(local: Servers) -> None:
    started, _ = local.up(cpus=2)
    assert up(cpus=2) == (started, False)
    with pytest.raises(ClusterConfigError, match="with --cpus 2"):
        up(cpus=3)


@pytest.mark.parametrize("which", ["ray", "mlflow"])
def test_a_server_that_fails_is_reported_and_nothing_is_left(which: str, local: Servers) -> None:
    setattr(local, which, lambda port: python(FAILS, which))
    with pytest.raises(ServiceUnreachable, match=f"{which} did not start: out of mem") as caught:
        local.up()
    assert caught.value.hint == str(local_cluster_directory() / f"{which}.log")
    assert running() is None
    assert read_cluster_config() == ClusterConfig()
    assert not is_alive(child_of(which))
    assert not list(local.temporary.iterdir())


def test_a_missing_program_is_named_and_nothing_is_left(local: Servers) -> None:
    local.ray = lambda port: ["/nowhere/ray"]
    with pytest.raises(OSError, match="/nowhere/ray"):
        local.up()
    assert running() is None
    assert not list(local.temporary.iterdir())


def test_waiting_for_a_silent_server_has_a_limit(
    local: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "START_TIMEOUT_S", 0.2)
    monkeypatch.setattr(processes, "STOP_TIMEOUT_S", 2.0)
    local.ray = lambda port: python("import time; time.sleep(600)")
    with pytest.raises(ServiceUnreachable, match="no cluster answers") as caught:
        local.up()
    assert str(local_cluster_directory()) in caught.value.hint
    assert running() is None


def test_nothing_is_started_with_a_port_in_rays_range_for_workers(local: Servers) -> None:
    with pytest.raises(ClusterConfigError, match="10002 to 19999"):
        local.up(port=12345)
    assert not local_cluster_directory().exists()


def test_nothing_is_started_without_rays_dashboard(
    local: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *more: None if name == "aiohttp_cors" else find(name, *more),
    )
    with pytest.raises(ClusterConfigError, match="is not installed here") as caught:
        local.up()
    assert caught.value.hint == INSTALL_HINT
    assert not local_cluster_directory().exists()


def test_nothing_is_started_with_a_damaged_configuration(local: Servers) -> None:
    cluster_config_path().parent.mkdir(parents=True)
    cluster_config_path().write_text("clusters: 3\n")
    with pytest.raises(ClusterConfigError):
        local.up()
    assert not local_cluster_directory().exists()


def test_down_works_with_a_damaged_configuration(
    local: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    started, _ = local.up()
    cluster_config_path().write_text("clusters: 3\n")
    assert down()
    assert not started.ray.is_alive
    assert caplog.messages[-1].startswith("the cluster has ended, but its name stays")


RECORD: dict[str, Any] = {
    "address": "http://127.0.0.1:1",
    "tracking_uri": "http://127.0.0.1:2",
    "temporary": "/tmp/sumgrad-up-x",
    "ray": {"pid": 2**22 + 1, "started": 1.0},
    "mlflow": {"pid": 2**22 + 2, "started": 1.0},
}


def write_record(text: str) -> None:
    local_cluster_directory().mkdir(parents=True, exist_ok=True)
    (local_cluster_directory() / "cluster.json").write_text(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "{}", "[" * 100_000, json.dumps(RECORD | {"ray": None})),
        *(json.dumps(RECORD | {"ray": {"pid": pid, "started": 1}}) for pid in (0, -1, 1, "x")),
        *(json.dumps(RECORD | {"mlflow": wrong}) for wrong in ({"pid": 5}, [5, 6])),
        json.dumps(RECORD | {"cpus": "many"}),
        json.dumps({key: value for key, value in RECORD.items() if key != "temporary"}),
    ],
)
def test_a_damaged_record_is_ignored(text: str) -> None:
    write_record(text)
    assert running() is None
    assert not down()


def test_down_removes_the_record_of_processes_that_have_ended() -> None:
    write_record(json.dumps(RECORD))
    existing = running()
    assert existing is not None
    assert not existing.is_alive
    assert down()
    assert running() is None


def test_down_removes_only_folders_of_its_own(tmp_path: Path) -> None:
    kept = tmp_path / "precious"
    kept.mkdir()
    write_record(json.dumps(RECORD | {"temporary": str(kept)}))
    assert down()
    assert kept.is_dir()


class StoppingClient(FakeRayJobsClient):
    """Jobs that end once they are stopped."""

    def stop(self, submission_id: str) -> None:
        super().stop(submission_id)
        stopped: Attempt = self.memory.attempts[submission_id]
        self.memory.attempts[submission_id] = replace(stopped, ray_state=STOPPED)


def test_running_jobs_are_stopped_and_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sumgrad")
    client = StoppingClient(
        attempt("a-1", RUNNING), attempt("b-1", STOPPED), attempt("c-1", RUNNING)
    )
    cluster._stop_jobs(client)
    assert caplog.messages == ["stopping job a-1", "stopping job c-1"]
    stops = [call for call in client.memory.calls if call.startswith("stop")]
    assert stops == ["stop a-1", "stop c-1"]
    assert client.memory.calls[-1] == "get_attempt c-1"
