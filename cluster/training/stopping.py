"""The stopping criteria: a pure state machine over the losses of the epochs."""

import math
from dataclasses import dataclass, replace
from enum import StrEnum


class StopReason(StrEnum):
    """The reason for which a run ended."""

    CONVERGED = "converged"
    EARLY_STOPPING = "early_stopping"
    MAX_EPOCHS = "max_epochs"
    DIVERGED = "diverged"
    INTERRUPTED = "interrupted"
    TERMINATED = "terminated"
    FAILED = "failed"


#: Runs that ended for one of these reasons can be resumed.
RESUMABLE = (StopReason.INTERRUPTED, StopReason.TERMINATED, StopReason.FAILED)


@dataclass(frozen=True)
class EarlyStopping:
    """A criterion that ends the run when the validation loss no longer improves."""

    patience: int  #: Epochs without an improvement.
    min_delta: float = 0.0  #: The smallest decrease that counts as an improvement.


@dataclass(frozen=True)
class StopRule:
    """The stopping criteria of a job."""

    max_epochs: int
    #: Relative change of the training loss below which an epoch counts as stalled; 0 disables it.
    tolerance: float = 0.0
    patience: int = 1  #: Number of consecutive stalled epochs that count as convergence.
    early_stopping: EarlyStopping | None = None  #: None to ignore the validation loss.


@dataclass(frozen=True)
class Progress:
    """The state of the criteria after an epoch."""

    epoch: int = 0  #: The last epoch; 0 before the first.
    loss: float = math.inf  #: Its training loss.
    stalled: int = 0  #: Number of consecutive stalled epochs up to it.
    best_loss: float = math.inf  #: That of the best epoch: validation loss, or else training loss.
    best_epoch: int = 0
    reason: StopReason | None = None  #: Why to stop now, or None to continue.


def update_progress(
    rule: StopRule, progress: Progress, train_loss: float, validation_loss: float | None
) -> Progress:
    """Return the state after one more epoch; the validation loss is None without validation."""
    stalled = progress.stalled + 1 if _is_stalled(rule, progress.loss, train_loss) else 0
    after = replace(progress, epoch=progress.epoch + 1, loss=train_loss, stalled=stalled)
    loss = train_loss if validation_loss is None else validation_loss
    delta = rule.early_stopping.min_delta if rule.early_stopping else 0.0
    if loss < progress.best_loss - delta:
        after = replace(after, best_loss=loss, best_epoch=after.epoch)
    return replace(after, reason=_stop_reason(rule, after))


def _is_stalled(rule: StopRule, previous: float, loss: float) -> bool:
    """Return ``|L − L'| < tolerance·|L'|``, L' being the loss of the previous epoch."""
    if math.isinf(previous):
        return False
    if loss == previous:
        return rule.tolerance > 0
    return abs(loss - previous) < rule.tolerance * abs(previous)


def _stop_reason(rule: StopRule, progress: Progress) -> StopReason | None:
    if rule.tolerance > 0 and progress.stalled >= rule.patience:
        return StopReason.CONVERGED
    early = rule.early_stopping
    if early is not None and progress.epoch - progress.best_epoch >= early.patience:
        return StopReason.EARLY_STOPPING
    if progress.epoch >= rule.max_epochs:
        return StopReason.MAX_EPOCHS
    return None
