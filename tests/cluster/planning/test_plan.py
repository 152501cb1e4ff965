"""Every instance exactly once in an epoch, whatever the sizes; nothing depends on the workers."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sumgrad.cluster.planning.plan import Plan, permutation

SIZES = st.integers(1, 60)


def rows_of(plan: Plan, epoch: int) -> list[int]:
    """Every row that an epoch's microbatches name, in their order."""
    everything = np.arange(plan.rows)
    named: list[int] = []
    for number in range(plan.steps_per_epoch):
        step = plan.step(epoch, number)
        for shard in range(step.num_microbatches):
            named.extend(everything[step.shard(shard)].tolist())
    return named


@settings(derandomize=True, deadline=None)
@given(rows=st.integers(1, 200), batch=st.none() | SIZES, shard=SIZES, seed=st.integers(0, 99))
def test_every_instance_counts_exactly_once_per_epoch(
    rows: int, batch: int | None, shard: int, seed: int
) -> None:
    plan = Plan(rows, batch, shard, seed)
    assert sorted(rows_of(plan, epoch=1)) == list(range(rows))


@settings(derandomize=True, deadline=None)
@given(rows=st.integers(1, 200), batch=SIZES, shard=SIZES)
def test_only_the_last_batch_and_the_last_micro_shard_are_ragged(
    rows: int, batch: int, shard: int
) -> None:
    plan = Plan(rows, batch, shard)
    steps = [plan.step(1, number) for number in range(plan.steps_per_epoch)]
    assert all(step.num_rows == batch for step in steps[:-1])
    for step in steps:
        sizes = [len(np.arange(rows)[step.shard(i)]) for i in range(step.num_microbatches)]
        assert all(size == shard for size in sizes[:-1])
        assert 1 <= sizes[-1] <= shard
        assert sum(sizes) == step.num_rows


def test_each_epoch_has_its_own_order_and_only_seed_and_epoch_decide() -> None:
    plan = Plan(50, 7, 3, seed=1)
    assert rows_of(plan, 1) != rows_of(plan, 2)
    assert rows_of(plan, 2) == rows_of(Plan(50, 11, 4, seed=1), 2)
    assert rows_of(plan, 1) != rows_of(Plan(50, 7, 3, seed=2), 1)


def test_a_full_batch_takes_the_rows_in_their_own_order() -> None:
    plan = Plan(10, None, 4, seed=1)
    assert plan.steps_per_epoch == 1
    assert rows_of(plan, 1) == rows_of(plan, 2) == list(range(10))


def test_the_order_cannot_be_changed_by_who_reads_it() -> None:
    assert not permutation(10, 0, 1).flags.writeable
