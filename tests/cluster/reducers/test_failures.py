"""Microbatches whose computation raises: retried, or reported with worker, microbatch and row."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sumgrad.cluster.errors import MicrobatchFailed
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.cluster.reducers.process import ProcessReducer
from sumgrad.cluster.workers.launcher import Placement
from tests.cluster.processes import ThreadLauncher
from tests.cluster.small_job import TASK, SmallJob, expected_sum, sum_bytes
from tests.cluster.sources import RaisingSource


@contextmanager
def running(job: SmallJob, workers: int) -> Iterator[ProcessReducer]:
    launcher = ThreadLauncher(job.workload)
    with ProcessReducer(job.workload, Placement(workers), launcher) as reducer:
        yield reducer


def test_an_invalid_row_fails_on_two_workers_and_ends_the_run(
    small_job: SmallJob, log: pytest.LogCaptureFixture
) -> None:
    job = small_job.with_source(RaisingSource, 61)
    with running(job, 3) as reducer:
        before = reducer._group.threads
        with pytest.raises(MicrobatchFailed) as caught:
            reducer.reduce(TASK, job.W)
        assert reducer._group.threads == before, "the fault is the data's, no worker's"
    failure = caught.value
    assert (failure.microbatch, failure.source, list(failure.rows)) == (6, "full", [61])
    assert "ValueError: this row is invalid" in str(failure)
    assert "failed on it too" in str(failure)
    [line] = log.messages
    assert line.endswith("ValueError: this row is invalid; retrying on another worker")


def test_an_invalid_row_fails_three_times_on_the_only_worker(
    small_job: SmallJob, log: pytest.LogCaptureFixture
) -> None:
    job = small_job.with_source(RaisingSource, 61)
    with (
        running(job, 1) as reducer,
        pytest.raises(MicrobatchFailed, match="it failed on it 3 times") as caught,
    ):
        reducer.reduce(TASK, job.W)
    assert list(caught.value.rows) == [61]
    assert [line.rpartition("; ")[2] for line in log.messages] == ["retrying"] * 2


@pytest.mark.parametrize("workers", [1, 2])
def test_the_sum_is_bit_identical_after_a_transient_fault(
    small_job: SmallJob, log: pytest.LogCaptureFixture, tmp_path: Path, workers: int
) -> None:
    job = small_job.with_source(RaisingSource, 61, str(tmp_path / "met"))
    with running(job, workers) as reducer:
        assert sum_bytes(reducer, job) == expected_sum(small_job)
        assert sum_bytes(reducer, job) == expected_sum(small_job)
    [line] = log.messages
    assert "MemoryError: out of memory for a moment" in line


def test_after_a_failure_no_worker_starts_another_microbatch(small_job: SmallJob) -> None:
    # Row 0 is in the first microbatch of the first share, which fails while others compute.
    job = small_job.with_source(RaisingSource, 0, None, 0.2)
    with running(job, 3) as reducer:
        with pytest.raises(MicrobatchFailed):
            reducer.reduce(TASK, job.W)
        assert reducer._in_flight, "no worker computes"
        assert all(reducer._claims.limit(worker) == 0 for worker in reducer._in_flight)


def test_inline_names_the_row_too(small_job: SmallJob) -> None:
    job = small_job.with_source(RaisingSource, 61)
    with InlineReducer(job.workload) as reducer, pytest.raises(MicrobatchFailed) as caught:
        reducer.reduce(TASK, job.W)
    assert list(caught.value.rows) == [61]
