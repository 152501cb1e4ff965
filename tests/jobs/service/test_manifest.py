"""What travels with a job: read as it was written, or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumgrad.jobs.errors import SubmissionError
from sumgrad.jobs.service.manifest import MANIFEST_FILE, JobManifest
from sumgrad.jobs.service.versions import Versions
from tests.fuzzing import cases, only
from tests.jobs.test_fuzz import changed

VERSIONS = Versions("0.1.0", "ab", "3.11", {"ray": "2.60.0"})
REQUEST = JobManifest(
    "digits-1", 2, None, VERSIONS, ("cluster.workers=8",), has_code=True, tags={"mlflow.user": "me"}
)


def written(folder: Path) -> dict[str, Any]:
    REQUEST.write(folder)
    value: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text())
    return value


def test_what_was_written_is_read(tmp_path: Path) -> None:
    expecting = JobManifest("abc", 1, "name: ü\n", VERSIONS, expected=VERSIONS)
    for request in (REQUEST, JobManifest("abc", 1, "name: ü\n", VERSIONS), expecting):
        request.write(tmp_path)
        assert JobManifest.read(tmp_path) == request


@pytest.mark.parametrize(
    "job_id",
    [
        *("../evil", "../../etc", "/etc", "a/b/c", "..", "...", "a.2", "", "a\0b", "~root", "ab"),
        *(None, 3, ["abc"], {"a": 1}, "abc\n"),
    ],
)
def test_an_id_that_could_lead_elsewhere_is_refused(job_id: object, tmp_path: Path) -> None:
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(written(tmp_path) | {"job_id": job_id}))
    with pytest.raises(SubmissionError):
        JobManifest.read(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"attempt": 0},
        {"expected": 3},
        {"expected": {}},
        {"attempt": -1},
        {"attempt": "2"},
        {"attempt": 1.5},
        {"attempt": True},
        {"has_code": "yes"},
        {"overrides": [3]},
        {"overrides": None},
        {"spec_yaml": 3},
        {"spec_yaml": ["x"]},
        {"tags": ["x"]},
        {"tags": {"a": 1}},
        {"tags": None},
        {"versions": None},
        {"versions": {}},
        {"more": 1},
        {"format": 2},
        {"format": None},
    ],
)
def test_a_request_that_makes_no_sense_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(written(tmp_path) | change))
    with pytest.raises(SubmissionError, match=MANIFEST_FILE):
        JobManifest.read(tmp_path)


@pytest.mark.parametrize("key", ["job_id", "attempt", "versions", "overrides", "format"])
def test_a_request_that_lacks_something_is_refused(key: str, tmp_path: Path) -> None:
    value = written(tmp_path)
    del value[key]
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(value))
    with pytest.raises(SubmissionError, match="cannot be used"):
        JobManifest.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000, None])
def test_a_file_that_is_no_request_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(SubmissionError, match="cannot be used"):
        JobManifest.read(tmp_path)


@cases(200)
@given(data=st.data())
def test_any_change_to_a_request(tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(data.draw(changed(written(tmp_path)))))
    with only(SubmissionError):
        JobManifest.read(tmp_path)
