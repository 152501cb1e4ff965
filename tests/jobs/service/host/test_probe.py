"""The checks that ``sumgrad doctor`` makes on the head of a cluster."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from sumgrad.jobs.service.checks import REPORT_PREFIX, Check, Report
from sumgrad.jobs.service.host import probe
from sumgrad.jobs.service.host.probe import NodeReport, inspect_node, main, run_head_checks
from sumgrad.jobs.service.versions import INSTALL_HINT, Versions

HERE = Versions.here()
GIB = 2**30
HEALTHY: dict[str, Any] = {
    "nodes": [
        NodeReport("head", clock=1.0, numpy="2.4.6"),
        NodeReport("worker", clock=2.0, numpy="2.4.6"),
    ],
    "total": {"CPU": 8.0, "memory": 16.0 * GIB},
    "free": {"CPU": 6.0, "memory": 12.0 * GIB},
}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Ray knows; healthy at first."""
    found = dict(HEALTHY)
    monkeypatch.setattr(probe, "_ask_ray", lambda _: tuple(found.values()))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd()}/mlflow.db")
    monkeypatch.setenv("SUMGRAD_OUTPUT", "/data/jobs")
    monkeypatch.setattr(Versions, "here", lambda: HERE)
    return found


def checks(*data: str, versions: Versions = HERE) -> dict[str, Check]:
    return {check.name: check for check in run_head_checks(versions, data).checks}


def test_a_machine_reports_which_paths_it_cannot_read(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.csv").symlink_to(tmp_path / "gone")
    names = ["a.csv", "[ab].csv", "folder", "gone", "*.parquet", "broken.csv", "*.csv", ""]
    paths = [f"{tmp_path}/{name}" if name else "" for name in names]
    before = time.time()
    node = inspect_node(paths)
    assert node.unreadable == (paths[3], paths[4], paths[5], paths[6], "")
    assert node.numpy == metadata.version("numpy")
    assert node.clock is not None
    assert before <= node.clock <= time.time()
    assert node.host


def test_a_file_without_read_permission_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text("x")
    monkeypatch.setattr("os.access", lambda *_: False)
    path = str(tmp_path / "a.csv")
    assert inspect_node([path]).unreadable == (path,)


@pytest.mark.usefixtures("cluster")
def test_a_healthy_cluster_passes_every_check(tmp_path: Path) -> None:
    data = str(tmp_path)
    found = checks(data)
    assert {check.status for check in found.values()} == {"ok"}
    assert list(found) == [
        *("versions", "sumgrad", "nodes", "resources", "MLflow from the head", "data", "output"),
    ]
    assert found["resources"].message == "6 of 8 CPUs are free, 12.0 of 16.0 GiB of memory"
    assert found["data"].message == f"all machines can read {data}"
    assert "a database" in found["MLflow from the head"].message
    assert "has none of its own" in found["sumgrad"].message
    assert "data" not in checks()
    assert run_head_checks(HERE).clocks == (1.0, 2.0)


WORKER = HEALTHY["nodes"][1]


@pytest.mark.parametrize(
    ("changes", "name", "status", "text"),
    [
        ({"total": {}}, "resources", "FAIL", "the cluster has no CPUs"),
        ({"free": {}}, "resources", "warn", "0 of 8 CPUs"),
        ({"free": {"CPU": 0.5}}, "resources", "warn", "0 of 8 CPUs"),
        (
            {"nodes": [WORKER, NodeReport("b", "does not answer")]},
            *("nodes", "FAIL", "b: does not answer"),
        ),
        ({"nodes": [WORKER, NodeReport("b", numpy="1.0")]}, "nodes", "FAIL", "1.0, 2.4.6"),
        ({"nodes": [WORKER, WORKER._replace(unreadable=("/",))]}, "data", "ok", "1 of 2 machines"),
    ],
)
def test_a_problem_of_the_cluster_is_found(
    changes: dict[str, Any], name: str, status: str, text: str, cluster: dict[str, Any]
) -> None:
    cluster |= changes
    check = checks("/")[name]
    assert (check.status, text in check.message) == (status, True), check


@pytest.mark.usefixtures("cluster")
def test_a_problem_of_the_head_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    check = checks("/gone")["data"]
    assert (check.status, check.message) == ("FAIL", "the head cannot read /gone")
    check = checks(versions=replace(HERE, python="3.99"))["versions"]
    assert (check.status, check.message[:18]) == ("FAIL", "Python 3.99 here, ")
    monkeypatch.setenv("SUMGRAD_OUTPUT", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    found = checks()
    assert (found["output"].status, "~/sumgrad" in found["output"].message) == ("warn", True)
    assert found["MLflow from the head"].status == "warn"


@pytest.mark.parametrize("uri", ["http://me:s3cr3t@127.0.0.1:1", "http://[x"])
def test_an_unusable_mlflow_is_a_failure_without_secrets(
    uri: str, cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    check = checks()["MLflow from the head"]
    assert check.status == "FAIL"
    assert "s3cr3t" not in str(check)


def test_the_paths_are_inspected_and_the_report_is_printed(
    cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Sequence[str]] = []

    def ask_ray(paths: Sequence[str]) -> tuple[Any, ...]:
        asked.append(paths)
        return tuple(cluster.values())

    monkeypatch.setattr(probe, "_ask_ray", ask_ray)
    main(json.dumps(asdict(HERE)), "/x", "/y")
    out = capsys.readouterr().out
    assert out.startswith(REPORT_PREFIX)
    report = Report.model_validate_json(out.removeprefix(REPORT_PREFIX))
    assert report == run_head_checks(HERE, ("/x", "/y"))
    assert asked[0] == ("/x", "/y")


def test_without_a_library_what_is_missing_is_the_only_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacking = replace(HERE, libraries=HERE.libraries | {"ray": "none"})
    monkeypatch.setattr(Versions, "here", lambda: lacking)
    report = run_head_checks(HERE)
    (check,) = report.checks
    assert (check.name, check.status) == ("versions", "FAIL")
    assert "lacks ray" in check.message
    assert check.hint == f"there: {INSTALL_HINT}"
    assert report.clocks == ()


@pytest.mark.usefixtures("cluster")
def test_the_heads_own_sumgrad_is_the_one_that_the_jobs_code_hides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Distribution:
        def __init__(self, version: str) -> None:
            self.version = version

    found = [Distribution("0.2.0"), Distribution("0.1.0")]
    monkeypatch.setattr(metadata, "distributions", lambda name: iter(found))
    assert "the cluster has 0.1.0; jobs run the code" in checks()["sumgrad"].message
