"""A user with an empty home, and nothing of the environment's clusters."""

from pathlib import Path

import pytest

from sumgrad.jobs.service.client import remote_probe
from tests.jobs.service.environment import isolate_user


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user who has nothing yet; the current folder is another."""
    monkeypatch.setattr(remote_probe, "_SETTLE_S", 0.0)
    return isolate_user(tmp_path, monkeypatch)
