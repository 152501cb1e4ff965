"""Commands about clusters: what they print, and their exit codes."""

import os
from pathlib import Path
from typing import Any

import pytest

from sumgrad.jobs.config.clusters import Cluster, ClusterConfig, read_cluster_config
from sumgrad.jobs.config.directories import local_cluster_directory
from sumgrad.jobs.errors import ServiceUnreachable
from sumgrad.jobs.service.checks import Check
from sumgrad.jobs.service.client import doctor
from sumgrad.jobs.service.local import cluster
from sumgrad.jobs.service.local.cluster import LocalCluster
from sumgrad.jobs.service.local.processes import ServerProcess, start_time
from tests.jobs.cli.commands import Sumgrad, error_line


def test_clusters_are_named_listed_and_removed(sumgrad: Sumgrad, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cr3t")
    token.chmod(0o600)
    assert sumgrad("cluster", "list", "--json").json == []
    assert sumgrad("cluster", "list").out.startswith("no clusters yet")
    added = sumgrad(
        *("cluster", "add", "lab", "head:8265", "--tracking-uri", "http://mlflow:5000"),
        *("--token-file", str(token), "--tracking-token-file", str(token)),
    )
    assert added.code == 0
    assert added.out.startswith("lab is http://head:8265, in ")
    assert sumgrad("cluster", "add", "home", "https://home").code == 0
    assert "default cluster is lab" in sumgrad("cluster", "use", "lab").out
    assert sumgrad("cluster", "list").out.splitlines() == [
        "  home             https://home",
        "* lab              http://head:8265  http://mlflow:5000",
    ]
    lab = sumgrad("cluster", "list", "--json").json
    assert next(each for each in lab if each["name"] == "lab") == {
        "name": "lab",
        "address": "http://head:8265",
        "tracking_uri": "http://mlflow:5000",
        "token_file": str(token),
        "tracking_token_file": str(token),
        "is_current": True,
    }
    assert sumgrad("cluster", "use", "--none").code == 0
    assert read_cluster_config().current is None
    home = {"name": "home", "address": "https://home", "tracking_uri": None, "is_current": False}
    home |= {"token_file": None, "tracking_token_file": None}
    assert sumgrad("cluster", "add", "home", "https://home", "--json").json == home
    assert sumgrad("cluster", "use", "home", "--json").json == home | {"is_current": True}
    assert sumgrad("cluster", "add", "gone", "h:1").code == 0
    removed = sumgrad("cluster", "remove", "gone", "--json").json
    assert removed == {"name": "gone", "current": "home"}
    assert sumgrad("cluster", "use", "--none", "--json").json == {"current": None}
    assert sumgrad("cluster", "remove", "lab").out == "lab was removed\n"
    assert sorted(read_cluster_config().clusters) == ["home"]


URIS = ("http://me:s3cr3t@h:2", "http://me@h:2", "h:2", "http://[h")


@pytest.mark.parametrize(
    "arguments",
    [
        *(["use", "gone"], ["remove", "gone"], ["add", "a b", "h:1"], ["add", "x", "ray://h:1"]),
        *(["add", "x", "http://me:s3cr3t@h:1"], ["add", "x"], ["up", "--port", "0"], ["nothing"]),
        *(
            ["add", "x", "h:1", "--token-file", "gone"],
            ["up", "--cpus", "0"],
            ["add", "local", "h:1"],
        ),
        ["add", "x", "h:1", "--tracking-token-file", "/dev/null"],
        ["add", "x", "h:1", "--tracking-uri", "sqlite:///x", "--tracking-token-file", "/dev/null"],
        *(["add", "x", "h:1", "--tracking-token-file", "t", "--tracking-uri", uri] for uri in URIS),
    ],
)
def test_invalid_arguments_change_no_configuration(arguments: list[str], sumgrad: Sumgrad) -> None:
    done = sumgrad("cluster", *arguments)
    assert done.code == 2
    assert "s3cr3t" not in error_line(done) + done.err
    assert read_cluster_config() == ClusterConfig()


def test_up_status_and_down_of_the_local_cluster(
    sumgrad: Sumgrad, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = ServerProcess(2**22 + 1, 1)
    there = LocalCluster("http://h:1", "http://h:2", "/t", dead, dead)
    monkeypatch.setattr(cluster, "up", lambda **_: (there, False))
    done = sumgrad("cluster", "up")
    assert done.code == 0
    assert "It was already running." in done.out
    assert "sumgrad cluster down" in done.out
    for _ in range(2):
        down = sumgrad("cluster", "down")
        assert (down.code, down.out) == (0, "no local cluster is running\n")
    gone = {"was_up": False, "folder": str(local_cluster_directory())}
    assert sumgrad("cluster", "down", "--json").json == gone
    token = str(local_cluster_directory() / "token")
    assert sumgrad("cluster", "up", "--json").json == {
        "is_new": False,
        "address": "http://h:1",
        "tracking_uri": "http://h:2",
        "token_file": token,
    }
    status = sumgrad("cluster", "status")
    assert (status.code, status.err) == (3, "")
    assert "sumgrad cluster up" in status.out
    as_json = sumgrad("cluster", "status", "--json")
    assert as_json.code == 3
    nothing = dict.fromkeys(("address", "tracking_uri", "token_file", "problem"))
    assert as_json.json == {"is_up": False, **nothing}
    monkeypatch.setattr(cluster, "running", lambda: there)
    status = sumgrad("cluster", "status")
    assert "dead" in status.out
    assert "the user 'sumgrad', with the token as the password" in status.out
    values = sumgrad("cluster", "status", "--json").json
    assert (values["address"], values["tracking_uri"]) == ("http://h:1", "http://h:2")
    assert values["token_file"] in status.out


def test_status_explains_a_lost_token(sumgrad: Sumgrad, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ServerProcess(os.getpid(), start_time(os.getpid()) or 0)
    there = LocalCluster("http://h:1", "http://h:2", "/t", mine, mine)
    monkeypatch.setattr(cluster, "running", lambda: there)
    token = local_cluster_directory() / "token"
    lost = sumgrad("cluster", "status")
    assert lost.code == 3
    assert f"problem  {token} (token_file of cluster 'local') cannot be read" in lost.out
    assert f"→ 'sumgrad cluster down', 'rm -f {token}' and 'sumgrad cluster up'" in lost.out
    as_json = sumgrad("cluster", "status", "--json")
    assert (as_json.code, as_json.json["is_up"]) == (3, True)
    assert "cannot be read" in as_json.json["problem"]
    token.parent.mkdir(parents=True)
    token.write_text("s3cr3t")
    token.chmod(0o600)
    found = sumgrad("cluster", "status")
    assert (found.code, "problem" in found.out) == (0, False)
    assert sumgrad("cluster", "status", "--json").json["problem"] is None


def test_up_passes_only_given_options(sumgrad: Sumgrad, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[dict[str, int | None]] = []

    def up(**options: int | None) -> None:
        wanted.append(options)
        raise ServiceUnreachable("out of memory")

    monkeypatch.setattr(cluster, "up", up)
    sumgrad("cluster", "up")
    sumgrad("cluster", "up", "--port", "8265")
    nothing = {"cpus": None, "port": None, "mlflow_port": None}
    assert wanted == [nothing, {**nothing, "port": 8265}]


def test_a_tracking_token_needs_a_tracking_uri(sumgrad: Sumgrad, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cr3t")
    (tmp_path / "token").chmod(0o600)
    given = ("--tracking-token-file", str(tmp_path / "token"))
    done = sumgrad("cluster", "add", "lab", "h:1", *given)
    assert (done.code, "needs a tracking_uri" in done.err) == (2, True)
    missing = ("--tracking-uri", "http://h:2", "--tracking-token-file", "gone")
    done = sumgrad("cluster", "add", "lab", "h:1", *missing)
    assert (done.code, "gone (--tracking-token-file) cannot be read" in done.err) == (2, True)
    assert read_cluster_config() == ClusterConfig()


def test_a_failed_start_is_reported(sumgrad: Sumgrad, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ServiceUnreachable("ray did not start: out of memory", hint="/the/log")

    monkeypatch.setattr(cluster, "up", fail)
    done = sumgrad("cluster", "up")
    assert done.code == 3
    assert done.err == "error: ray did not start: out of memory\nhint: /the/log\n"


@pytest.mark.parametrize(("status", "ended"), [("ok", 0), ("warn", 0), ("FAIL", 3)])
def test_doctor_exits_with_3_after_a_failure(
    status: Any, ended: int, sumgrad: Sumgrad, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Cluster, list[str]]] = []

    def run_checks(cluster: Cluster, data: list[str]) -> list[Check]:
        asked.append((cluster, data))
        return [Check("resources", status, "8 CPUs", "add more")]

    monkeypatch.setattr(doctor, "run_checks", run_checks)
    done = sumgrad("doctor", "-c", "h:1", "--data", "/a", "--data", "/b")
    assert done.code == ended
    assert asked == [(Cluster(address="http://h:1"), ["/a", "/b"])]
    assert "→ add more" in done.out
    as_json = sumgrad("doctor", "-c", "h:1", "--json")
    assert as_json.code == ended
    assert as_json.json == [
        {"name": "resources", "status": status, "message": "8 CPUs", "hint": "add more"}
    ]
