"""The stopping criterion, event by event."""

from collections.abc import Iterable

import pytest

from sumgrad.cluster.training.stopping import (
    EarlyStopping,
    Progress,
    StopReason,
    StopRule,
    update_progress,
)


def run(
    rule: StopRule, losses: Iterable[float], validation: Iterable[float] | None = None
) -> Progress:
    """Feed losses until the rule says stop or they run out."""
    progress = Progress()
    held_out: Iterable[float | None] = validation or iter(lambda: None, 0)
    for loss, val in zip(losses, held_out, strict=False):
        progress = update_progress(rule, progress, loss, val)
        if progress.reason is not None:
            break
    return progress


def test_converged_after_so_many_still_epochs_in_a_row() -> None:
    rule = StopRule(100, tolerance=0.01, patience=2)
    progress = run(rule, [1.0, 0.999, 0.5, 0.499, 0.498, 0.1])
    assert (progress.epoch, progress.reason) == (5, StopReason.CONVERGED)


def test_a_jump_starts_the_count_again() -> None:
    rule = StopRule(100, tolerance=0.01, patience=3)
    progress = run(rule, [1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    assert progress.reason is None
    assert progress.still == 2


def test_the_change_is_relative_to_the_loss_before() -> None:
    rule = StopRule(100, tolerance=0.1, patience=1)
    assert run(rule, [100.0, 95.0]).reason is StopReason.CONVERGED
    assert run(rule, [0.1, 0.05]).reason is None


def test_a_rise_is_no_convergence() -> None:
    assert run(StopRule(100, tolerance=0.1, patience=1), [1.0, 1.2]).reason is None


@pytest.mark.parametrize("loss", [0.0, 0.5])
def test_without_a_tolerance_only_the_budget_ends_it(loss: float) -> None:
    progress = run(StopRule(4, tolerance=0.0, patience=1), [loss] * 10)
    assert (progress.epoch, progress.reason) == (4, StopReason.MAX_EPOCHS)


def test_a_loss_of_exactly_zero_that_stays_is_convergence() -> None:
    progress = run(StopRule(9, tolerance=1e-4, patience=2), [1.0, 0.0, 0.0, 0.0])
    assert (progress.epoch, progress.reason) == (4, StopReason.CONVERGED)


def test_early_stopping_counts_from_the_best_epoch() -> None:
    rule = StopRule(100, early_stopping=EarlyStopping(patience=2))
    progress = run(rule, [3, 2, 1, 0.5, 0.4], [1.0, 0.5, 0.6, 0.55, 0.1])
    assert (progress.epoch, progress.best_epoch) == (4, 2)
    assert progress.reason is StopReason.EARLY_STOPPING


def test_min_delta_is_what_counts_as_better() -> None:
    rule = StopRule(100, early_stopping=EarlyStopping(patience=2, min_delta=0.1))
    progress = run(rule, [4, 3, 2, 1], [1.0, 0.95, 0.91, 0.5])
    assert (progress.epoch, progress.best_epoch) == (3, 1)


def test_convergence_at_the_budget_is_reported_as_convergence() -> None:
    progress = run(StopRule(2, tolerance=0.1, patience=1), [1.0, 1.0])
    assert progress.reason is StopReason.CONVERGED
