"""What a machine of a cluster says of itself."""

import json
import time
from importlib import metadata
from pathlib import Path

import pytest

from sumgrad.jobs.service.client import probe
from sumgrad.jobs.service.client.preflight import _MARK
from sumgrad.jobs.service.client.probe import inspect_node, main


def test_what_can_be_read(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.csv").symlink_to(tmp_path / "gone")
    names = ["a.csv", "[ab].csv", "folder", "gone", "*.parquet", "broken.csv", "*.csv", ""]
    paths = [f"{tmp_path}/{name}" if name else "" for name in names]
    before = time.time()
    facts = inspect_node(paths)
    assert facts["unreadable"] == [paths[3], paths[4], paths[5], paths[6], ""]
    assert facts["numpy"] == metadata.version("numpy")
    assert before <= facts["time"] <= time.time()
    assert facts["host"]


def test_what_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("x")
    monkeypatch.setattr("os.access", lambda *_: False)
    assert inspect_node([str(tmp_path / "a.csv")])["unreadable"] == [str(tmp_path / "a.csv")]


@pytest.mark.parametrize(
    ("uri", "shown", "is_well"),
    [
        ("", "", True),
        ("sqlite:////{here}/mlflow.db", "sqlite:////{here}/mlflow.db", True),
        ("http://me:s3cr3t@127.0.0.1:1", "http://***@127.0.0.1:1", False),
        ("http://[x", "http://[x", False),
    ],
)
def test_the_head_answers(
    uri: str,
    shown: str,
    is_well: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = str(Path.cwd()).lstrip("/")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(here=here))
    monkeypatch.setenv("SUMGRAD_OUTPUT", "/data/jobs")
    monkeypatch.setattr(probe, "_cluster", lambda paths: {"nodes": [], "asked": paths})
    main('{"paths": ["/x", 3]}')
    out = capsys.readouterr().out
    assert out.startswith(_MARK)
    facts = json.loads(out.removeprefix(_MARK))
    assert facts["mlflow_uri"] == shown.format(here=here)
    assert (facts["mlflow_problem"] is None) is is_well
    assert facts["output"] == "/data/jobs"
    assert facts["asked"] == facts["head"]["unreadable"] == ["/x", "3"]
    assert "s3cr3t" not in out
