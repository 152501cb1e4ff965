"""Groups of workers that are supervised often, so that tests wait for milliseconds."""

import pytest

from sumgrad.cluster.reducers import process
from sumgrad.cluster.workers import pending, scaling_policy, worker_group


@pytest.fixture(autouse=True)
def quick_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (process, scaling_policy, worker_group):
        monkeypatch.setattr(module, "SUPERVISION_INTERVAL_S", 0.02)
    monkeypatch.setattr(pending, "_FIRST_PAUSE_S", 0.01)
