"""Relative paths of a spec become absolute; names and URIs stay."""

from pathlib import Path

import pytest

from sumgrad.jobs.spec.loader import load_spec
from sumgrad.jobs.spec.paths import resolve_paths


@pytest.mark.parametrize(
    ("source", "resolved"),
    [
        ("rows.csv", "/project/rows.csv"),
        ("../rows.csv", "/rows.csv"),
        ("/data/rows.csv", "/data/rows.csv"),
        ("digits", "digits"),
        ("s3://bucket/rows.csv", "s3://bucket/rows.csv"),
        ("~/rows.csv", "/home/me/rows.csv"),
        ("~no-such-user/rows.csv", "/project/~no-such-user/rows.csv"),
    ],
)
def test_sources_are_resolved(source: str, resolved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    overrides = [f"data.train='{source}'", f"data.test='{source}'", "data.validation=0.1"]
    spec = resolve_paths(load_spec("digits", overrides).spec, Path("/project"))
    assert (spec.data.train, spec.data.test, spec.data.validation) == (resolved, resolved, 0.1)


def test_the_output_and_a_database_are_resolved() -> None:
    spec = load_spec("digits", ["output=runs", "tracking.uri=sqlite:///own.db"]).spec
    resolved = resolve_paths(spec, Path("/project"))
    assert resolved.output == "/project/runs"
    assert resolved.tracking.uri == "sqlite:////project/own.db"
