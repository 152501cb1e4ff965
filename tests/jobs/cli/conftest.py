"""Tests of commands run as a user with an empty home and without clusters."""

from pathlib import Path

import pytest

from sumgrad.jobs.cli.app import run
from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.service import versions
from sumgrad.jobs.service.client import doctor
from sumgrad.jobs.service.states import FAILED, RUNNING, STOPPED, SUCCEEDED
from sumgrad.jobs.support.source_digest import source_digest
from tests.jobs.cli.commands import Result, Sumgrad
from tests.jobs.service.environment import isolate_user
from tests.jobs.service.fakes import ADDRESS, FakeRayJobsClient, attempt

DIGEST = source_digest()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home; the current folder is another empty one."""
    monkeypatch.setattr(doctor, "_SETTLE_S", 0.0)
    return isolate_user(tmp_path, monkeypatch)


@pytest.fixture
def sumgrad(capsys: pytest.CaptureFixture[str]) -> Sumgrad:
    """Runs a command and returns its result."""

    def call(*arguments: str) -> Result:
        capsys.readouterr()
        code = run(list(arguments))
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        assert "internal error" not in printed.err
        return Result(code, printed.out, printed.err)

    return call


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeRayJobsClient:
    """The job server of every cluster."""
    found = FakeRayJobsClient(
        attempt("digits-1", STOPPED, exit_code=143, start_time=1.0),
        attempt("digits-1~2", RUNNING, number=2, start_time=2.0),
        attempt("mnist-1", SUCCEEDED, start_time=3.0),
        attempt("bad-1", FAILED, exit_code=3, start_time=4.0),
    )

    def connect(cluster: Cluster) -> FakeRayJobsClient:
        found.cluster = cluster
        return found

    monkeypatch.setattr("sumgrad.jobs.service.client.ray_api.RayJobsClient", connect)
    monkeypatch.setattr(versions, "source_digest", lambda: DIGEST)
    monkeypatch.setenv("SUMGRAD_CLUSTER", ADDRESS)
    return found
