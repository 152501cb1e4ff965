"""Tests of the service run as a user with an empty home and without clusters."""

from pathlib import Path

import pytest

from sumgrad.jobs.service.client import doctor
from tests.jobs.service.environment import isolate_user


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home; the current folder is another empty one."""
    monkeypatch.setattr(doctor, "_SETTLE_S", 0.0)
    return isolate_user(tmp_path, monkeypatch)
