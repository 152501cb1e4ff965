"""The report that ``sumgrad doctor`` gets of a cluster."""

import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from sumgrad.jobs.service.host import probe
from sumgrad.jobs.service.host.probe import (
    REPORT_PREFIX,
    ClusterReport,
    NodeReport,
    inspect_node,
    main,
)
from sumgrad.jobs.service.versions import Versions


def test_a_machine_reports_which_paths_it_cannot_read(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.csv").symlink_to(tmp_path / "gone")
    names = ["a.csv", "[ab].csv", "folder", "gone", "*.parquet", "broken.csv", "*.csv", ""]
    paths = [f"{tmp_path}/{name}" if name else "" for name in names]
    before = time.time()
    report = NodeReport(**inspect_node(paths))
    assert report.unreadable == (paths[3], paths[4], paths[5], paths[6], "")
    assert report.numpy == metadata.version("numpy")
    assert report.time is not None
    assert before <= report.time <= time.time()
    assert report.host


def test_a_file_without_read_permission_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.csv").write_text("x")
    monkeypatch.setattr("os.access", lambda *_: False)
    path = str(tmp_path / "a.csv")
    assert inspect_node([path])["unreadable"] == (path,)


def printed_report(capsys: pytest.CaptureFixture[str], paths: str = "[]") -> ClusterReport:
    main(paths)
    out = capsys.readouterr().out
    assert out.startswith(REPORT_PREFIX)
    assert "s3cr3t" not in out
    return TypeAdapter(ClusterReport).validate_json(out.removeprefix(REPORT_PREFIX))


@pytest.mark.parametrize(
    ("uri", "redacted", "works"),
    [
        ("", "", True),
        ("sqlite:////{here}/mlflow.db", "sqlite:////{here}/mlflow.db", True),
        ("http://me:s3cr3t@127.0.0.1:1", "http://***@127.0.0.1:1", False),
        ("http://[x", "http://[x", False),
    ],
)
def test_the_head_reports_its_environment_without_secrets(
    uri: str,
    redacted: str,
    works: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = str(Path.cwd()).lstrip("/")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(here=here))
    monkeypatch.setenv("SUMGRAD_OUTPUT", "/data/jobs")
    node = NodeReport("worker", time=1.0)
    inspected: list[list[str]] = []

    def inspect_cluster(paths: list[str]) -> dict[str, Any]:
        inspected.append(paths)
        return {"nodes": (node,), "cpus": 4.0}

    monkeypatch.setattr(probe, "_inspect_cluster", inspect_cluster)
    report = printed_report(capsys, '["/x", 3]')
    assert report.versions == Versions.here()
    assert report.mlflow_uri == redacted.format(here=here)
    assert (report.mlflow_problem is None) is works
    assert (report.output, report.nodes, report.cpus) == ("/data/jobs", (node,), 4.0)
    assert report.head.unreadable == ("/x", "3")
    assert inspected == [["/x", "3"]]


def test_a_head_without_ray_reports_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = metadata.version

    def without_ray(name: str) -> str:
        if name == "ray":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without_ray)
    report = printed_report(capsys)
    assert report.versions.missing == ["ray"]
    assert report.nodes == ()


def test_the_heads_own_sumgrad_is_the_one_that_the_jobs_code_hides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Distribution:
        def __init__(self, version: str) -> None:
            self.version = version

    found = [Distribution("0.2.0")]
    monkeypatch.setattr(metadata, "distributions", lambda name: iter(found))
    assert probe._installed() == ""
    found.append(Distribution("0.1.0"))
    assert probe._installed() == "0.1.0"
