"""Tests of the client do not read or copy sumgrad's source, which takes a second."""

from pathlib import Path

import pytest

from sumgrad.jobs.service import versions
from sumgrad.jobs.service.client import submit
from sumgrad.jobs.service.versions import Versions

HERE = Versions.here()


@pytest.fixture(autouse=True)
def _source(monkeypatch: pytest.MonkeyPatch) -> None:
    def copy_source(target: Path) -> list[Path]:
        return [target / "sumgrad", target / f"sumgrad-{HERE.sumgrad}.dist-info"]

    monkeypatch.setattr(versions, "source_digest", lambda: HERE.code)
    monkeypatch.setattr(submit, "copy_source", copy_source)
