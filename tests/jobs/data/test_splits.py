"""Held-out rows: seeded, by class, in the original order."""

import numpy as np
import pytest

from sumgrad.jobs.data.splits import stratified_split
from sumgrad.model.random_streams import RandomStream, Stream


def stream() -> RandomStream:
    return RandomStream(0, Stream.TEST_SPLIT)


def test_the_same_fraction_of_every_class_is_held_out() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    kept, held = stratified_split(labels, 0.2, by_class=True, stream=stream())
    assert np.bincount(labels[held]).tolist() == [20, 10, 2]
    assert sorted([*kept, *held]) == list(range(160))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held) > 0).all()


@pytest.mark.parametrize(("rows", "fraction", "held_out"), [(1, 0.9, 0), (2, 0.1, 1), (2, 0.9, 1)])
def test_a_class_of_two_rows_is_in_both_parts(rows: int, fraction: float, held_out: int) -> None:
    labels = np.array([0] * 20 + [1] * rows)
    _, held = stratified_split(labels, fraction, by_class=True, stream=stream())
    assert np.count_nonzero(labels[held] == 1) == held_out


def test_a_regression_is_not_stratified() -> None:
    labels = np.random.default_rng(0).normal(size=(10, 2))
    _, held = stratified_split(labels, 0.3, by_class=False, stream=stream())
    assert len(held) == 3
