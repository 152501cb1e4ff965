"""Groups of workers that are supervised often, so that tests wait for milliseconds."""

import pytest

from sumgrad.cluster.reducers import process
from sumgrad.cluster.workers import scaling_policy, worker_group, worker_state


@pytest.fixture(autouse=True)
def quick_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (process, scaling_policy, worker_group):
        monkeypatch.setattr(module, "SUPERVISION_INTERVAL_S", 0.02)
    monkeypatch.setattr(worker_state, "_FIRST_PAUSE_S", 0.01)
