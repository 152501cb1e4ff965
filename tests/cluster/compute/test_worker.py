"""The gradient worker: whom it blames when its computation raises."""

import time
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from sumgrad.cluster.compute import worker as module
from sumgrad.cluster.compute.worker import GradientWorker, Task
from sumgrad.cluster.errors import ClusterError, MicrobatchFailed
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import RowIndices
from sumgrad.model.validation import Array
from tests.cluster.reducers.test_lost_workers import with_source
from tests.cluster.small_job import SmallJob

TASK = Task("gradient", "full")


@dataclass(frozen=True)
class BadTogether(ArraySource):
    """Rows that can be had one by one, slowly, and not together."""

    seconds: float

    def read(self, rows: RowIndices, out: Array | None = None) -> tuple[Array, NDArray[np.generic]]:
        if len(np.arange(len(self.x))[rows]) > 1:
            raise ValueError("not so many at once")
        time.sleep(self.seconds)
        return super().read(rows, out)


@pytest.mark.parametrize("seconds", [0.0, 0.1])
def test_the_row_to_blame_is_not_looked_for_for_long(
    small_job: SmallJob, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_FOR_BLAME_S", 0.25)
    job = with_source(small_job, BadTogether, seconds)
    began = time.monotonic()
    with pytest.raises(MicrobatchFailed, match="not so many at once") as caught:
        GradientWorker(0, job.workload).compute(TASK, range(1, 2), job.W)
    assert time.monotonic() - began < 0.6
    assert list(caught.value.rows) == list(range(9, 18)), "any of them may be the one"


def test_no_row_is_to_blame_where_there_is_no_memory_for_a_sum(small_job: SmallJob) -> None:
    def no_room(number: int) -> Array:
        raise ClusterError("no 4,000 bytes of shared memory to be had")

    with pytest.raises(MicrobatchFailed, match="no 4,000 bytes") as caught:
        GradientWorker(0, small_job.workload, no_room).compute(TASK, range(1), small_job.W)
    assert list(caught.value.rows) == []
