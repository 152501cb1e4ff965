"""Tests of the configuration run as a user with an empty home and without clusters."""

from pathlib import Path

import pytest

from tests.jobs.service.environment import isolate_user


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home; the current folder is another empty one."""
    return isolate_user(tmp_path, monkeypatch)
