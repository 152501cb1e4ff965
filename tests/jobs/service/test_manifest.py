"""The manifest of a job: read as it was written, or refused."""

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
MANIFEST = JobManifest(
    job_id="digits-1",
    attempt=2,
    spec_yaml=None,
    versions=VERSIONS,
    overrides=("cluster.workers=8",),
    has_code=True,
    tags={"mlflow.user": "ada"},
)


def read(folder: Path, value: object) -> JobManifest:
    (folder / MANIFEST_FILE).write_text(json.dumps(value))
    return JobManifest.read(folder)


@pytest.fixture
def valid(tmp_path: Path) -> dict[str, Any]:
    """The content of a valid file."""
    MANIFEST.write(tmp_path)
    value: dict[str, Any] = json.loads((tmp_path / MANIFEST_FILE).read_text())
    return value


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    first = JobManifest(job_id="abc", attempt=1, spec_yaml="name: ü\n", versions=VERSIONS)
    for manifest in (MANIFEST, first):
        manifest.write(tmp_path)
        assert JobManifest.read(tmp_path) == manifest


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("job_id", text) for text in ("../evil", "/etc", "a/b/c", "..", "a.2", "", "a\0b", "ab")),
        *(("job_id", value) for value in (None, 3, ["abc"], "abc\n")),
        *(("attempt", value) for value in (0, -1, "2", 1.5, True)),
        *(("overrides", value) for value in ([3], None, "a=b")),
        *(("spec_yaml", value) for value in (3, ["x"])),
        *(("tags", value) for value in (["x"], {"a": 1}, None)),
        *(("versions", value) for value in (None, {}, {"python": 3})),
        *(("format", value) for value in (1, 3, None, "2")),
        *(("has_code", "yes"), ("allow_version_mismatch", 1), ("more", 1)),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(
    key: str, value: object, valid: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(SubmissionError, match=f"{key}|cannot be a job's id"):
        read(tmp_path, valid | {key: value})


@pytest.mark.parametrize("key", ["job_id", "attempt", "versions", "spec_yaml"])
def test_a_missing_key_is_named(key: str, valid: dict[str, Any], tmp_path: Path) -> None:
    del valid[key]
    with pytest.raises(SubmissionError, match=rf"{MANIFEST_FILE}: {key}: required"):
        read(tmp_path, valid)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000, None])
def test_a_damaged_or_missing_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(SubmissionError, match=MANIFEST_FILE):
        JobManifest.read(tmp_path)


@cases(200)
@given(data=st.data())
def test_no_change_of_the_file_leads_to_another_kind_of_error(
    tmp_path: Path, data: st.DataObject
) -> None:
    MANIFEST.write(tmp_path)
    value = json.loads((tmp_path / MANIFEST_FILE).read_text())
    with only(SubmissionError):
        read(tmp_path, data.draw(changed(value)))
