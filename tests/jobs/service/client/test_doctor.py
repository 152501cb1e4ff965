"""The checks of ``sumgrad doctor``."""

import time
from pathlib import Path

import pytest

from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.config.credentials import Credentials
from sumgrad.jobs.config.directories import local_cluster_directory
from sumgrad.jobs.errors import JobNotFound, ServiceUnreachable
from sumgrad.jobs.service.checks import Check, Report
from sumgrad.jobs.service.client import doctor
from sumgrad.jobs.service.client.doctor import run_checks, table
from sumgrad.jobs.service.client.ray_api import RayJobsClient
from tests.jobs.service.fakes import ADDRESS, FakeRayJobsClient, free_port

OF_THE_HEAD = (Check("nodes", "ok", "2 answer: head, worker"), Check("output", "warn", "~/sumgrad"))


class Doctor:
    """Runs the checks on a cluster in memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.client = FakeRayJobsClient()
        self.error: Exception | None = None
        self.clocks: tuple[float, ...] = (time.time(), time.time())
        self.requires_token = True
        self.paths: list[str] = []
        self.token_file: Path | None = None
        self.uri: str | None = f"sqlite:///{Path.cwd()}/mlflow.db"
        test = self

        class FakeClient(RayJobsClient):
            def ray_version(self) -> str:
                return test.client.ray_version()

            def requires_token(self) -> bool:
                return test.requires_token

        def run_probe(client: RayJobsClient, paths: list[str]) -> Report:
            self.paths = paths
            if self.error is not None:
                raise self.error
            return Report(checks=OF_THE_HEAD, clocks=self.clocks)

        monkeypatch.setattr(doctor, "RayJobsClient", FakeClient)
        monkeypatch.setattr(doctor, "run_probe", run_probe)

    def __call__(self, *data: str) -> dict[str, Check]:
        cluster = Cluster(
            address=ADDRESS,
            name="lab",
            tracking_uri=self.uri,
            tracking_token_file=self.token_file,
        )
        checks = run_checks(cluster, data)
        assert table(checks)
        return {check.name: check for check in checks}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Doctor:
    return Doctor(monkeypatch)


def test_the_checks_of_both_machines_are_listed(run: Doctor) -> None:
    run.clocks = (time.time() + 1, time.time() + 2)
    checks = run("file:///data/x.csv", "/data/y.csv")
    names = ["cluster", "token", "MLflow from here", "nodes", "output", "clocks"]
    assert [(check.name, check.status) for check in checks.values()] == [
        (name, "warn" if name == "output" else "ok") for name in names
    ]
    assert run.paths == ["/data/x.csv", "/data/y.csv"]


@pytest.mark.parametrize("skew", [-1000.0, 1000.0])
def test_a_clock_that_differs_is_a_warning(skew: float, run: Doctor) -> None:
    run.clocks = (time.time(), time.time() + skew)
    check = run()["clocks"]
    assert (check.status, "differs from this one's by" in check.message) == ("warn", True)


def test_a_head_that_reads_no_clock_has_no_check_of_clocks(run: Doctor) -> None:
    run.clocks = ()
    assert "clocks" not in run()


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

    def check_mlflow(name: str, uri: str, login: Credentials | None) -> tuple[Check, bool]:
        logins.append(login)
        return Check(name, "ok", f"{uri} answers"), required

    monkeypatch.setattr(doctor, "check_mlflow", check_mlflow)
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
    checks = run_checks(Cluster(address=f"http://127.0.0.1:{free_port()}"))
    assert checks[-1].status == "FAIL"
    assert checks[-1].hint == "'sumgrad cluster up' starts one on this machine"


@pytest.mark.parametrize("in_config", [False, True])
def test_an_unreadable_token_is_a_failure(
    in_config: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(gone))
    check = run_checks(Cluster(address=ADDRESS, token_file=gone if in_config else None))[-1]
    assert check.status == "FAIL"
    assert "cannot be read" in check.message
    assert str(gone) in check.hint


@pytest.mark.parametrize("content", [None, ""])
def test_the_hint_for_the_local_cluster_says_how_to_make_another_token(content: str | None) -> None:
    file = local_cluster_directory() / "token"
    if content is not None:
        file.parent.mkdir(parents=True)
        file.write_text(content)
        file.chmod(0o600)
    (check,) = run_checks(Cluster(address=ADDRESS, name="local", token_file=file))[1:]
    assert (check.name, check.status) == ("cluster", "FAIL")
    assert check.hint.startswith(f"'sumgrad cluster down', 'rm -f {file}' and")


def test_the_table_has_each_hint_below_its_check() -> None:
    lines = table([Check("a", "ok", "fine"), Check("longer", "FAIL", "bad", "do this")])
    assert lines == ["ok    a       fine", "FAIL  longer  bad", "              → do this"]
