"""Every instance exactly once per epoch, for all sizes and without regard to the workers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumgrad.cluster.planning.plan import Plan, StepPlan, default_microbatch_size, permutation
from tests.fuzzing import cases

SIZES = st.integers(1, 60)


def steps_of(plan: Plan, epoch: int = 1) -> list[StepPlan]:
    return [plan.step(epoch, number) for number in range(plan.steps_per_epoch)]


def rows_of(plan: Plan, epoch: int) -> list[int]:
    """Return the rows of an epoch's microbatches in their order."""
    all_rows = np.arange(plan.num_rows)
    rows: list[int] = []
    for step in steps_of(plan, epoch):
        for index in range(step.num_microbatches):
            microbatch = all_rows[step.microbatch(index)].tolist()
            assert step.row_indices(index) == microbatch
            rows += microbatch
    return rows


@cases(50)
@given(rows=st.integers(1, 200), batch=st.none() | SIZES, size=SIZES, seed=st.integers(0, 99))
def test_every_instance_counts_exactly_once_per_epoch(
    rows: int, batch: int | None, size: int, seed: int
) -> None:
    plan = Plan(rows, batch, size, seed)
    assert sorted(rows_of(plan, epoch=1)) == list(range(rows))


@cases(50)
@given(rows=st.integers(1, 200), batch=SIZES, size=SIZES)
def test_only_the_last_batch_and_the_last_microbatch_are_smaller(
    rows: int, batch: int, size: int
) -> None:
    steps = steps_of(Plan(rows, batch, size))
    assert all(step.num_rows == batch for step in steps[:-1])
    for step in steps:
        sizes = [len(step.row_indices(i)) for i in range(step.num_microbatches)]
        assert all(each == size for each in sizes[:-1])
        assert 1 <= sizes[-1] <= size
        assert sum(sizes) == step.num_rows


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    plan = Plan(50, 7, 3, seed=1)
    assert rows_of(plan, 1) != rows_of(plan, 2)
    assert rows_of(plan, 2) == rows_of(Plan(50, 11, 4, seed=1), 2)
    assert rows_of(plan, 1) != rows_of(Plan(50, 7, 3, seed=2), 1)
    assert rows_of(Plan(50, 7, 3), 1) == rows_of(Plan(50, 7, 3, seed=0), 1)


def test_a_full_batch_keeps_the_order_of_the_source() -> None:
    plan = Plan(10, None, 4, seed=1)
    assert plan.steps_per_epoch == 1
    assert rows_of(plan, 1) == rows_of(plan, 2) == list(range(10))
    assert plan.step(1, 0).microbatch(1) == slice(4, 8), "a slice, which a source reads as a view"


def test_a_permutation_is_read_only_and_cached() -> None:
    assert not permutation(10, 0, 1).flags.writeable
    assert permutation(10, 0, 1) is permutation(10, 0, 1)


@pytest.mark.parametrize(
    ("rows", "size"), [(10, 32), (64, 32), (65, 33), (100, 50), (512, 256), (514, 256)]
)
def test_the_default_microbatch_is_half_a_step_within_limits(rows: int, size: int) -> None:
    assert default_microbatch_size(rows) == size
