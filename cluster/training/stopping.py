"""When training ends: a pure state machine over the losses of the epochs."""

import math
from dataclasses import dataclass, replace
from enum import StrEnum


class StopReason(StrEnum):
    """Why a run ended."""

    CONVERGED = "converged"
    EARLY_STOPPING = "early_stopping"
    MAX_EPOCHS = "max_epochs"
    DIVERGED = "diverged"
    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"
    FAILED = "failed"


#: A run that ended for one of these may be gone on with.
RESUMABLE = (StopReason.INTERRUPTED, StopReason.TERMINATED, StopReason.FAILED)


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the validation loss no longer falls.

    Args:
        patience: Epochs without a better one.
        min_delta: How much lower counts as better.
    """

    patience: int
    min_delta: float = 0.0


@dataclass(frozen=True)
class StopRule:
    """The criterion of a job.

    Args:
        max_epochs: The budget.
        tolerance: Relative change of the training loss below which an epoch counts as still;
            0 turns this criterion off.
        patience: So many still epochs in a row are convergence.
        early_stopping: None to train on whatever the validation loss does.
    """

    max_epochs: int
    tolerance: float = 0.0
    patience: int = 1
    early_stopping: EarlyStopping | None = None


@dataclass(frozen=True)
class Progress:
    """What the criterion remembers from epoch to epoch.

    Attributes:
        epoch: The last epoch observed; 0 before the first.
        loss: Its training loss.
        still: Still epochs in a row up to it.
        best_loss: The lowest validation loss so far.
        best_epoch: Where it was.
        reason: Why to stop now, or None to go on.
    """

    epoch: int = 0
    loss: float = math.inf
    still: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    reason: StopReason | None = None


def update_progress(
    rule: StopRule, progress: Progress, train_loss: float, validation_loss: float | None
) -> Progress:
    """The state after one more epoch.

    >>> rule = StopRule(max_epochs=9, tolerance=0.01, patience=2)
    >>> progress = Progress()
    >>> for loss in (1.0, 0.5, 0.499, 0.498):
    ...     progress = update_progress(rule, progress, loss, None)
    >>> progress.epoch, progress.still, progress.reason.value
    (4, 2, 'converged')
    """
    still = _is_still(rule, progress, train_loss)
    after = replace(
        progress,
        epoch=progress.epoch + 1,
        loss=train_loss,
        still=progress.still + 1 if still else 0,
    )
    if validation_loss is not None:
        delta = rule.early_stopping.min_delta if rule.early_stopping else 0.0
        if validation_loss < progress.best_loss - delta:
            after = replace(after, best_loss=validation_loss, best_epoch=after.epoch)
    return replace(after, reason=_reason(rule, after))


def _is_still(rule: StopRule, progress: Progress, loss: float) -> bool:
    """``|L − L'| < tolerance·|L'|``, L' being the loss of the epoch before."""
    if math.isinf(progress.loss):
        return False
    if loss == progress.loss:
        return rule.tolerance > 0
    return abs(loss - progress.loss) < rule.tolerance * abs(progress.loss)


def _reason(rule: StopRule, progress: Progress) -> StopReason | None:
    if rule.tolerance > 0 and progress.still >= rule.patience:
        return StopReason.CONVERGED
    early = rule.early_stopping
    if early is not None and progress.epoch - progress.best_epoch >= early.patience:
        return StopReason.EARLY_STOPPING
    if progress.epoch >= rule.max_epochs:
        return StopReason.MAX_EPOCHS
    return None
