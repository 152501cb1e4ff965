"""What stands between a job and a cluster, check by check."""

import json
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.config.credentials import Credentials
from sumgrad.jobs.config.directories import local_cluster_directory
from sumgrad.jobs.errors import JobNotFound, ServiceUnreachable
from sumgrad.jobs.service.client import doctor
from sumgrad.jobs.service.client.doctor import Check, run_checks, table
from sumgrad.jobs.service.client.ray_api import RayJobsClient
from sumgrad.jobs.service.versions import INSTALL_HINT, Versions
from tests.jobs.service.stand_ins import ADDRESS, FakeRayJobsClient, free_port

HERE = Versions.here()
GIB = 2**30


def facts(**changes: object) -> dict[str, Any]:
    """What a cluster of two machines says that is well."""
    nodes = [node("head"), node("worker")]
    return {
        "nodes": nodes,
        "cpus": 8.0,
        "free_cpus": 6.0,
        "memory": 16.0 * GIB,
        "free_memory": 12.0 * GIB,
        "mlflow_uri": "http://mlflow:5000",
        "mlflow_problem": None,
        "output": "/data/jobs",
        "head": dict(nodes[0]),
    } | changes


class Examined:
    """A cluster for the doctor, and what was found."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.server = FakeRayJobsClient()
        self.facts: object = facts()
        self.admits_everybody = False
        self.commands: list[str] = []
        self.token_file: Path | None = None
        self.uri: str | None = f"sqlite:///{Path.cwd()}/mlflow.db"
        examined = self

        class Doctored(RayJobsClient):
            def ray_version(self) -> str:
                if isinstance(self.cluster, doctor._Anonymous) and not examined.admits_everybody:
                    raise ServiceUnreachable("asks for a token")
                return examined.server.ray_version()

        def ask(server: RayJobsClient, command: str, **_: object) -> object:
            examined.commands.append(command)
            if isinstance(examined.facts, Exception):
                raise examined.facts
            return json.loads(json.dumps(examined.facts))

        monkeypatch.setattr(doctor, "RayJobsClient", Doctored)
        monkeypatch.setattr(doctor, "ask", ask)
        monkeypatch.setattr(
            doctor, "cluster_versions", lambda *_: self.server.memory.versions or HERE
        )

    def __call__(self, *data: str) -> dict[str, Check]:
        found = run_checks(
            Cluster(
                ADDRESS,
                "lab",
                tracking_uri=self.uri,
                tracking_token_file=self.token_file,
            ),
            data,
        )
        assert table(found)
        return {check.what: check for check in found}


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> Examined:
    return Examined(monkeypatch)


def test_a_cluster_that_is_well(examined: Examined) -> None:
    found = examined("file:///data/x.csv", "/data/y.csv")
    assert {check.status for check in found.values()} == {"ok"}
    assert list(found) == [
        *("cluster", "token", "MLflow here", "versions", "sumgrad"),
        *("nodes", "room", "MLflow there", "data", "clocks", "runs"),
    ]
    assert '{"paths": ["/data/x.csv", "/data/y.csv"]}' in examined.commands[0]
    assert found["room"].text == "6 of 8 CPUs are free, 12.0 of 16.0 GiB of memory"
    assert "data" not in examined()


def test_a_path_is_no_command(examined: Examined) -> None:
    examined("/x'; touch /evil; '")
    *_, question = shlex.split(examined.commands[0])
    assert json.loads(question) == {"paths": ["/x'; touch /evil; '"]}


def node(host: str, **changes: object) -> dict[str, object]:
    whole = {"host": host, "problem": "", "time": time.time(), "numpy": "2.4.6", "unreadable": []}
    return whole | changes


@pytest.mark.parametrize(
    ("changes", "what", "status", "text"),
    [
        ({"cpus": 0.0}, "room", "FAIL", "the cluster has no CPUs"),
        ({"free_cpus": 0.0}, "room", "warn", "0 of 8 CPUs"),
        ({"free_cpus": 0.5}, "room", "warn", "0 of 8 CPUs"),
        ({"output": ""}, "runs", "warn", "~/sumgrad"),
        ({"mlflow_uri": ""}, "MLflow there", "warn", "names none"),
        ({"mlflow_problem": "it is away"}, "MLflow there", "FAIL", "it is away"),
        ({"mlflow_uri": "sqlite:////d/x.db"}, "MLflow there", "ok", "a database"),
        (
            {"nodes": [node("a"), {"host": "b", "problem": "does not answer"}]},
            *("nodes", "FAIL", "b: does not answer"),
        ),
        ({"nodes": [node("a"), node("b", numpy="1.0")]}, "nodes", "FAIL", "1.0, 2.4.6"),
        ({"nodes": [node("a"), node("b", time=1.0)]}, "clocks", "warn", "differs"),
        ({"nodes": [node("a", time=time.time() + 1000)]}, "clocks", "warn", "differs"),
        ({"head": node("a", unreadable=["/x"])}, "data", "FAIL", "the head cannot read /x"),
        ({"nodes": [node("a"), node("b", unreadable=["/x"])]}, "data", "ok", "1 of 2 machines"),
    ],
)
def test_what_a_cluster_may_lack(
    changes: dict[str, object], what: str, status: str, text: str, examined: Examined
) -> None:
    examined.facts = facts(**changes)
    check = examined("/x")[what]
    assert (check.status, text in check.text) == (status, True), check


def test_a_cluster_that_admits_everybody_is_warned_of(examined: Examined) -> None:
    examined.admits_everybody = True
    assert examined()["token"].status == "warn"


def test_an_mlflow_that_is_not_known_or_away(examined: Examined) -> None:
    examined.uri = None
    assert examined()["MLflow here"].status == "warn"
    examined.uri = "http://me:s3cr3t@127.0.0.1:1"
    check = examined()["MLflow here"]
    assert check.status == "FAIL"
    assert "s3cr3t" not in check.text
    examined.uri = "http://[x"
    assert examined()["MLflow here"].status == "FAIL"


@pytest.mark.parametrize(("asks", "status"), [(True, "ok"), (False, "warn")])
def test_whether_mlflow_asks_for_a_login(
    asks: bool, status: str, examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Credentials | None] = []
    monkeypatch.setattr(doctor, "mlflow_problem", lambda uri, login: shown.append(login))
    monkeypatch.setattr(doctor, "requires_login", lambda uri: asks)
    examined.uri, examined.token_file = "http://mlflow:5000", Path("/lab.token")
    found = examined()
    assert list(found)[:4] == ["cluster", "token", "MLflow here", "login"]
    assert (found["MLflow here"].status, found["login"].status) == ("ok", status)
    (login,) = shown
    assert login is not None
    assert login.token_file == Path("/lab.token")


def test_other_versions(examined: Examined) -> None:
    examined.server.memory.versions = replace(HERE, python="3.99", code="other")
    found = examined()
    assert found["versions"].status == "FAIL"
    assert "--allow-version-mismatch" in found["versions"].hint
    assert "goes along with jobs" in found["sumgrad"].text
    assert "runs" in found, "the rest is looked at all the same"


def test_what_builds_on_a_failure_is_left_out(examined: Examined) -> None:
    examined.server.memory.versions = replace(HERE, libraries=HERE.libraries | {"ray": "none"})
    found = examined()
    assert "lacks ray" in found["versions"].text
    assert found["versions"].hint == f"there: {INSTALL_HINT}"
    assert "nodes" not in found
    assert not examined.commands


@pytest.mark.parametrize("error", [ServiceUnreachable("it ran out"), JobNotFound("gone")])
def test_a_probe_that_fails_is_a_finding(error: Exception, examined: Examined) -> None:
    examined.facts = error
    found = examined()
    assert found["cluster"] == Check("cluster", "FAIL", str(error))
    assert "versions" in found, "what was found before"


def test_a_cluster_that_is_away_is_a_finding(examined: Examined) -> None:
    examined.server.memory.is_unreachable = True
    found = examined()
    assert list(found) == ["MLflow here", "cluster"]
    assert found["cluster"].status == "FAIL"


def test_who_looks_closer_is_not_told_to_look_closer() -> None:
    found = run_checks(Cluster(f"http://127.0.0.1:{free_port()}"))
    assert found[-1].status == "FAIL"
    assert found[-1].hint == "'sumgrad cluster up' starts one on this machine"


@pytest.mark.parametrize("has_context", [False, True])
def test_a_token_that_cannot_be_read_is_a_finding(
    has_context: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(gone))
    found = run_checks(Cluster(ADDRESS, token_file=gone if has_context else None))
    assert found[-1].status == "FAIL"
    assert "cannot be read" in found[-1].text
    assert found[-1].hint == (
        f"copy the cluster's token into {gone}; the cluster's administrator has it"
    )


@pytest.mark.parametrize("content", [None, ""])
def test_a_token_of_the_cluster_here_can_be_had_again(
    content: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = local_cluster_directory() / "token"
    if content is not None:
        file.parent.mkdir(parents=True)
        file.write_text(content)
        file.chmod(0o600)
    problem = "the token cannot be read"
    monkeypatch.setattr(doctor, "mlflow_problem", lambda *_: problem)
    uri = "http://127.0.0.1:5000"
    found = run_checks(Cluster(ADDRESS, "local", uri, token_file=file, tracking_token_file=file))
    assert [check.what for check in found] == ["MLflow here", "cluster"]
    for check in found:
        assert check.status == "FAIL"
        assert check.hint.startswith(f"'sumgrad cluster down', 'rm -f {file}' and")


def test_the_table_has_hints_below() -> None:
    lines = table([Check("a", "ok", "fine"), Check("longer", "FAIL", "bad", "do this")])
    assert lines == ["ok    a       fine", "FAIL  longer  bad", "              → do this"]
