"""The checks of ``sumgrad doctor``."""

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
from sumgrad.jobs.service.host.probe import ClusterReport, NodeReport
from sumgrad.jobs.service.versions import INSTALL_HINT, Versions
from tests.jobs.service.stand_ins import ADDRESS, FakeRayJobsClient, free_port

HERE = Versions.here()
GIB = 2**30


def node(host: str, **changes: Any) -> NodeReport:
    return replace(NodeReport(host, time=time.time(), numpy="2.4.6"), **changes)


def healthy_report() -> ClusterReport:
    """A report of two machines without problems."""
    return ClusterReport(
        HERE,
        installed="0.1.0",
        head=node("head"),
        nodes=(node("head"), node("worker")),
        cpus=8.0,
        free_cpus=6.0,
        memory=16.0 * GIB,
        free_memory=12.0 * GIB,
        mlflow_uri="http://mlflow:5000",
        output="/data/jobs",
    )


class Doctor:
    """Runs the checks on a cluster in memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.client = FakeRayJobsClient()
        self.report = healthy_report()
        self.error: Exception | None = None
        self.requires_token = True
        self.paths: list[str] = []
        self.token_file: Path | None = None
        self.uri: str | None = f"sqlite:///{Path.cwd()}/mlflow.db"
        test = self

        class FakeClient(RayJobsClient):
            def ray_version(self) -> str:
                if isinstance(self.cluster, doctor._AnonymousCluster) and test.requires_token:
                    raise ServiceUnreachable("the cluster requires a token")
                return test.client.ray_version()

        def run_probe(client: RayJobsClient, paths: list[str]) -> ClusterReport:
            self.paths = paths
            if self.error is not None:
                raise self.error
            return self.report

        monkeypatch.setattr(doctor, "RayJobsClient", FakeClient)
        monkeypatch.setattr(doctor, "run_probe", run_probe)

    def __call__(self, *data: str) -> dict[str, Check]:
        cluster = Cluster(
            ADDRESS, "lab", tracking_uri=self.uri, tracking_token_file=self.token_file
        )
        checks = run_checks(cluster, data)
        assert table(checks)
        return {check.name: check for check in checks}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Doctor:
    return Doctor(monkeypatch)


def test_a_healthy_cluster_passes_every_check(run: Doctor) -> None:
    checks = run("file:///data/x.csv", "/data/y.csv")
    assert {check.status for check in checks.values()} == {"ok"}
    assert list(checks) == [
        *("cluster", "token", "MLflow from here", "versions", "sumgrad", "nodes"),
        *("resources", "MLflow from the head", "data", "clocks", "output"),
    ]
    assert run.paths == ["/data/x.csv", "/data/y.csv"]
    assert checks["resources"].message == "6 of 8 CPUs are free, 12.0 of 16.0 GiB of memory"
    assert "data" not in run()


@pytest.mark.parametrize(
    ("changes", "name", "status", "text"),
    [
        ({"cpus": 0.0}, "resources", "FAIL", "the cluster has no CPUs"),
        ({"free_cpus": 0.0}, "resources", "warn", "0 of 8 CPUs"),
        ({"free_cpus": 0.5}, "resources", "warn", "0 of 8 CPUs"),
        ({"output": ""}, "output", "warn", "~/sumgrad"),
        ({"mlflow_uri": ""}, "MLflow from the head", "warn", "names none"),
        ({"mlflow_problem": "it is away"}, "MLflow from the head", "FAIL", "it is away"),
        ({"mlflow_uri": "sqlite:////d/x.db"}, "MLflow from the head", "ok", "a database"),
        (
            {"nodes": (node("a"), NodeReport("b", problem="does not answer"))},
            *("nodes", "FAIL", "b: does not answer"),
        ),
        ({"nodes": (node("a"), node("b", numpy="1.0"))}, "nodes", "FAIL", "1.0, 2.4.6"),
        ({"nodes": (node("a"), node("b", time=1.0))}, "clocks", "warn", "differs"),
        ({"nodes": (node("a", time=time.time() + 1000),)}, "clocks", "warn", "differs"),
        ({"head": node("a", unreadable=("/x",))}, "data", "FAIL", "the head cannot read /x"),
        ({"nodes": (node("a"), node("b", unreadable=("/x",)))}, "data", "ok", "1 of 2 machines"),
        ({"installed": ""}, "sumgrad", "ok", "has none of its own"),
        ({"versions": replace(HERE, python="3.99")}, "versions", "FAIL", "3.99 on the cluster"),
    ],
)
def test_a_problem_of_the_cluster_is_found(
    changes: dict[str, Any], name: str, status: str, text: str, run: Doctor
) -> None:
    run.report = replace(run.report, **changes)
    check = run("/x")[name]
    assert (check.status, text in check.message) == (status, True), check


def test_missing_libraries_are_named_and_later_checks_left_out(run: Doctor) -> None:
    run.report = ClusterReport(
        replace(HERE, libraries=HERE.libraries | {"ray": "none"}), "", node("head")
    )
    checks = run()
    assert "lacks ray" in checks["versions"].message
    assert checks["versions"].hint == f"there: {INSTALL_HINT}"
    assert "nodes" not in checks


def test_a_cluster_without_a_token_is_a_warning(run: Doctor) -> None:
    run.requires_token = False
    assert run()["token"].status == "warn"


def test_an_unknown_mlflow_is_a_warning_and_an_unreachable_one_a_failure(run: Doctor) -> None:
    run.uri = None
    assert run()["MLflow from here"].status == "warn"
    run.uri = "http://me:s3cr3t@127.0.0.1:1"
    check = run()["MLflow from here"]
    assert check.status == "FAIL"
    assert "s3cr3t" not in check.message
    run.uri = "http://[x"
    assert run()["MLflow from here"].status == "FAIL"


@pytest.mark.parametrize(("required", "status"), [(True, "ok"), (False, "warn")])
def test_an_mlflow_without_a_login_is_a_warning(
    required: bool, status: str, run: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    logins: list[Credentials | None] = []
    monkeypatch.setattr(doctor, "mlflow_problem", lambda uri, login: logins.append(login))
    monkeypatch.setattr(doctor, "requires_login", lambda uri: required)
    run.uri, run.token_file = "http://mlflow:5000", Path("/lab.token")
    checks = run()
    assert list(checks)[:4] == ["cluster", "token", "MLflow from here", "login"]
    assert (checks["MLflow from here"].status, checks["login"].status) == ("ok", status)
    (login,) = logins
    assert login is not None
    assert login.token_file == Path("/lab.token")


@pytest.mark.parametrize("error", [ServiceUnreachable("it timed out"), JobNotFound("gone")])
def test_a_probe_that_fails_is_a_failure(error: Exception, run: Doctor) -> None:
    run.error = error
    checks = run()
    assert checks["cluster"] == Check("cluster", "FAIL", str(error))
    assert "token" in checks, "earlier checks stay"


def test_an_unreachable_cluster_is_a_failure(run: Doctor) -> None:
    run.client.memory.is_unreachable = True
    checks = run()
    assert list(checks) == ["MLflow from here", "cluster"]
    assert checks["cluster"].status == "FAIL"


def test_the_hint_does_not_recommend_the_doctor() -> None:
    checks = run_checks(Cluster(f"http://127.0.0.1:{free_port()}"))
    assert checks[-1].status == "FAIL"
    assert checks[-1].hint == "'sumgrad cluster up' starts one on this machine"


@pytest.mark.parametrize("in_config", [False, True])
def test_an_unreadable_token_is_a_failure(
    in_config: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(gone))
    check = run_checks(Cluster(ADDRESS, token_file=gone if in_config else None))[-1]
    assert check.status == "FAIL"
    assert "cannot be read" in check.message
    assert str(gone) in check.hint


@pytest.mark.parametrize("content", [None, ""])
def test_the_hint_for_the_local_cluster_says_how_to_make_another_token(
    content: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = local_cluster_directory() / "token"
    if content is not None:
        file.parent.mkdir(parents=True)
        file.write_text(content)
        file.chmod(0o600)
    monkeypatch.setattr(doctor, "mlflow_problem", lambda *_: "the token cannot be read")
    uri = "http://127.0.0.1:5000"
    checks = run_checks(Cluster(ADDRESS, "local", uri, token_file=file, tracking_token_file=file))
    assert [check.name for check in checks] == ["MLflow from here", "cluster"]
    for check in checks:
        assert check.status == "FAIL"
        assert check.hint.startswith(f"'sumgrad cluster down', 'rm -f {file}' and")


def test_the_table_has_each_hint_below_its_check() -> None:
    lines = table([Check("a", "ok", "fine"), Check("longer", "FAIL", "bad", "do this")])
    assert lines == ["ok    a       fine", "FAIL  longer  bad", "              → do this"]
