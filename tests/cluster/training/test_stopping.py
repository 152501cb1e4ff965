"""The stopping criteria, epoch by epoch."""

import math
from collections.abc import Iterable, Sequence

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
    """Return the progress at the first reason to stop, or after all losses."""
    progress = Progress()
    seen: Iterable[float | None] = validation or iter(lambda: None, 0)
    for loss, validation_loss in zip(losses, seen, strict=False):
        progress = update_progress(rule, progress, loss, validation_loss)
        if progress.reason is not None:
            break
    return progress


def test_consecutive_stalled_epochs_are_convergence() -> None:
    rule = StopRule(100, tolerance=0.01, patience=2)
    progress = run(rule, [1.0, 0.999, 0.5, 0.499, 0.498, 0.1])
    assert (progress.epoch, progress.reason) == (5, StopReason.CONVERGED)
    assert (progress.stalled, progress.loss) == (2, 0.498)


def test_a_jump_resets_the_count() -> None:
    progress = run(StopRule(100, tolerance=0.01, patience=3), [1.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    assert (progress.reason, progress.stalled) == (None, 2)


def test_the_change_is_relative_to_the_previous_loss() -> None:
    rule = StopRule(100, tolerance=0.1, patience=1)
    assert run(rule, [100.0, 95.0]).reason is StopReason.CONVERGED
    assert run(rule, [0.1, 0.05]).reason is None
    assert run(rule, [-100.0, -95.0]).reason is StopReason.CONVERGED


@pytest.mark.parametrize(("loss", "stalled"), [(3.0, 0), (3.01, 1), (5.0, 0), (4.99, 1)])
def test_a_change_of_exactly_the_tolerance_is_not_stalled(loss: float, stalled: int) -> None:
    assert run(StopRule(9, tolerance=0.25, patience=5), [4.0, loss]).stalled == stalled


def test_the_first_epoch_is_never_stalled() -> None:
    assert run(StopRule(9, tolerance=0.5, patience=1), [math.inf]).reason is None


@pytest.mark.parametrize("loss", [0.0, 0.5])
def test_without_a_tolerance_the_maximum_of_epochs_ends_the_run(loss: float) -> None:
    progress = run(StopRule(4, tolerance=0.0, patience=1), [loss] * 10)
    assert (progress.epoch, progress.reason) == (4, StopReason.MAX_EPOCHS)
    assert progress.stalled == 0


def test_a_loss_that_stays_zero_is_convergence() -> None:
    progress = run(StopRule(9, tolerance=1e-4, patience=2), [1.0, 0.0, 0.0, 0.0])
    assert (progress.epoch, progress.reason) == (4, StopReason.CONVERGED)


def test_early_stopping_counts_from_the_best_epoch() -> None:
    rule = StopRule(100, early_stopping=EarlyStopping(patience=2))
    progress = run(rule, [3, 2, 1, 0.5, 0.4], [1.0, 0.5, 0.6, 0.55, 0.1])
    assert (progress.epoch, progress.best_epoch, progress.best_loss) == (4, 2, 0.5)
    assert progress.reason is StopReason.EARLY_STOPPING


@pytest.mark.parametrize(
    ("losses", "best_epoch"), [([1.0, 0.75, 0.5], 3), ([1.0, 1.0, 1.0], 1), ([1.0, 0.9, 0.5], 3)]
)
def test_an_equal_loss_is_not_an_improvement(losses: Sequence[float], best_epoch: int) -> None:
    rule = StopRule(100, early_stopping=EarlyStopping(patience=9))
    assert run(rule, [3, 2, 1], losses).best_epoch == best_epoch
    assert run(StopRule(100), [3, 2, 1], losses).best_epoch == best_epoch
    assert run(StopRule(100), losses).best_epoch == best_epoch, "the training loss"


@pytest.mark.parametrize(("loss", "best_epoch"), [(0.75, 1), (0.74, 2), (0.76, 1)])
def test_a_decrease_has_to_exceed_min_delta(loss: float, best_epoch: int) -> None:
    rule = StopRule(100, early_stopping=EarlyStopping(patience=2, min_delta=0.25))
    assert run(rule, [4, 3], [1.0, loss]).best_epoch == best_epoch


def test_without_early_stopping_the_validation_loss_ends_nothing() -> None:
    assert run(StopRule(100), [3, 2, 1], [1.0, 2.0, 3.0]).reason is None


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (StopRule(2, 0.1, 1, EarlyStopping(1)), StopReason.CONVERGED),
        (StopRule(2, 0.0, 1, EarlyStopping(1)), StopReason.EARLY_STOPPING),
        (StopRule(2), StopReason.MAX_EPOCHS),
    ],
)
def test_of_several_reasons_convergence_then_early_stopping_is_reported(
    rule: StopRule, reason: StopReason
) -> None:
    assert run(rule, [1.0, 1.0], [1.0, 1.0]).reason is reason
