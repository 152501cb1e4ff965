"""The inline reducer refuses a sum that does not count every instance once."""

from dataclasses import replace

import pytest

from sumgrad.cluster.compute.worker import Task
from sumgrad.cluster.errors import CountMismatch
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.reducers.inline import InlineReducer
from tests.cluster.small_job import SmallJob

TASK = Task("gradient", "full")


def test_it_has_as_many_workers_as_threads(small_job: SmallJob) -> None:
    with InlineReducer(small_job.workload, 3) as reducer:
        assert reducer.num_threads == 3
    assert InlineReducer(small_job.workload).num_threads == 1


def test_its_threads_end_with_the_block(small_job: SmallJob) -> None:
    with InlineReducer(small_job.workload, 2) as reducer:
        pool = reducer._worker._pool
        assert pool is not None
        assert pool.submit(int).result() == 0
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(int)


def test_a_shared_copy_is_independent_of_the_original(small_job: SmallJob) -> None:
    with InlineReducer(small_job.workload) as reducer:
        copy = reducer.shared_copy(small_job.W)
        copy[0] += 1
        assert copy[0] != small_job.W[0]
        reducer.release(copy)


def test_later_sums_do_not_depend_on_earlier_ones(small_job: SmallJob) -> None:
    with InlineReducer(small_job.workload) as reducer:
        first = reducer.reduce(TASK, small_job.W).gradient
        assert first is not None
        before = first.copy()
        again = reducer.reduce(TASK, small_job.W).gradient
        assert again is first, "buffers are reused"
        assert again.tobytes() == before.tobytes()


def test_a_source_with_fewer_rows_than_the_plan_is_refused(small_job: SmallJob) -> None:
    source = small_job.workload.sources["full"]
    assert isinstance(source, ArraySource)
    short = ArraySource(source.x[:-1], source.d[:-1])
    with (
        InlineReducer(replace(small_job.workload, sources={"full": short})) as reducer,
        pytest.raises(CountMismatch, match="106 instances were summed, but the step has 107"),
    ):
        reducer.reduce(TASK, small_job.W)
