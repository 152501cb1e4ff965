"""The state that a run's next step depends on, and the snapshot from which a run resumes.

A snapshot consists of arrays by name and of metadata that JSON can hold. JSON changes no float:
Python writes the shortest text that reads back as the same number.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from sumgrad.cluster.errors import ClusterError
from sumgrad.cluster.planning.reduction import PartialSum
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.cluster.training.stopping import Progress, StopReason
from sumgrad.model.optimizers import Optimizer, State
from sumgrad.model.validation import Array

_OPTIMIZER_STATE = "optimizer_state."  #: Prefix of the optimizer's arrays in a snapshot.


@dataclass(frozen=True)
class Evaluation:
    """The loss (1/T) Σ Div and the accuracy over all T = ``count`` rows of a data source."""

    loss: float
    accuracy: float | None  #: Fraction of correctly classified instances; None for a regression.
    count: int


@dataclass(frozen=True)
class EpochReport:
    """The figures of an epoch."""

    epoch: int  #: From 1.
    step: int  #: Steps of the run so far.
    train_loss: float  #: Mean divergence of its instances, each before the update it is part of.
    validation: Evaluation | None
    gradient_norm: float  #: Mean of ‖S/T‖ over the epoch's steps.
    eta: float  #: The learning rate of the last step.
    instances: int
    seconds: float  #: Duration of the epoch's steps, without validation.

    @property
    def samples_per_s(self) -> float:
        """The number of instances summed per second."""
        return self.instances / self.seconds if self.seconds else 0.0


@dataclass
class EpochAccumulator:
    """Sums over the steps of the current epoch, and the learning rate of the last one."""

    steps: int = 0
    divergence: float = 0.0
    instances: int = 0
    gradient_norms: float = 0.0
    eta: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """A run at a step boundary."""

    arrays: Mapping[str, Array]  #: ``W``, ``last_finite``, ``best`` if any, and the optimizer's.
    metadata: Mapping[str, Any]  #: Position, sums and stopping criteria.

    @property
    def step(self) -> int:
        """The number of steps done."""
        return int(self.metadata["step"])


@dataclass
class TrainingState:
    """The state of a running job."""

    # Each step rotates these three vectors, (N,).
    W: Array  #: The current weights.
    next: Array  #: Memory for the next weights.
    last_finite: Array  #: The last weights whose loss and gradient are finite.
    optimizer_state: State  #: The optimizer's arrays; each step writes to them.
    step: int = 0
    instances: int = 0
    seconds: float = 0.0
    epoch: EpochAccumulator = field(default_factory=EpochAccumulator)
    progress: Progress = field(default_factory=Progress)
    report: EpochReport | None = None  #: Report of the last complete epoch.
    best: Array | None = None  #: With early stopping, those with the best validation loss.
    best_report: EpochReport | None = None

    @classmethod
    def initial(cls, W: Array, optimizer: Optimizer, reducer: GradientReducer) -> "TrainingState":
        """Return the state before the first step."""
        W, next_, last_finite = (reducer.shared_copy(W) for _ in range(3))
        return cls(W, next_, last_finite, optimizer.init(W))

    @classmethod
    def restore(cls, snapshot: Snapshot, reducer: GradientReducer) -> "TrainingState":
        """Return the state of a snapshot; an invalid one is a KeyError, TypeError or ValueError."""
        arrays, metadata = snapshot.arrays, snapshot.metadata
        progress = Progress(**metadata["progress"])
        if progress.reason is not None:
            progress = replace(progress, reason=StopReason(progress.reason))
        return cls(
            W=reducer.shared_copy(arrays["W"]),
            next=reducer.shared_copy(arrays["W"]),
            last_finite=reducer.shared_copy(arrays["last_finite"]),
            optimizer_state={
                name.removeprefix(_OPTIMIZER_STATE): array.copy()
                for name, array in arrays.items()
                if name.startswith(_OPTIMIZER_STATE)
            },
            step=int(metadata["step"]),
            instances=int(metadata["instances"]),
            seconds=float(metadata["seconds"]),
            epoch=EpochAccumulator(**metadata["epoch"]),
            progress=progress,
            report=_restore_report(metadata["report"]),
            best=arrays["best"].copy() if "best" in arrays else None,
            best_report=_restore_report(metadata["best_report"]),
        )

    def snapshot(self) -> Snapshot:
        """Return a copy that later steps do not change."""
        arrays = {"W": self.W.copy(), "last_finite": self.last_finite.copy()}
        for name, array in self.optimizer_state.items():
            arrays[_OPTIMIZER_STATE + name] = np.array(array)
        if self.best is not None:
            # `best` is replaced, never written to.
            arrays["best"] = self.best
        metadata = {name: getattr(self, name) for name in ("step", "instances", "seconds")}
        for name in ("epoch", "progress", "report", "best_report"):
            value = getattr(self, name)
            metadata[name] = None if value is None else asdict(value)
        return Snapshot(arrays, metadata)

    def finish_step(self, total: PartialSum, norm: float, eta: float, seconds: float) -> None:
        """Make the next weights current and count a step with this sum and ``norm`` of S/T."""
        self.W, self.next, self.last_finite = self.next, self.last_finite, self.W
        self.step += 1
        self.instances += total.count
        self.seconds += seconds
        epoch = self.epoch
        epoch.steps += 1
        epoch.divergence += total.divergence
        epoch.instances += total.count
        epoch.gradient_norms += norm
        epoch.eta = eta
        epoch.seconds += seconds


def _restore_report(values: Mapping[str, Any] | None) -> EpochReport | None:
    if values is None:
        return None
    validation = values["validation"] and Evaluation(**values["validation"])
    return EpochReport(**{**values, "validation": validation})


@dataclass(frozen=True)
class TrainingResult:
    """The weights and figures of a run that has ended."""

    #: The weights to keep: with early stopping the best ones, else the current ones; after a
    #: divergence the last ones with finite loss and gradient, unless there are best ones.
    W: Array
    reason: StopReason
    report: EpochReport | None  #: Report of the epoch of `W`; None if no epoch was completed.
    epochs: int
    steps: int
    instances: int
    seconds: float  #: Duration of the steps, without evaluation.
    failure: ClusterError | None = None
    snapshot: Snapshot | None = None  #: Where to resume; None after a divergence.

    @classmethod
    def from_state(
        cls, state: TrainingState, reason: StopReason, failure: ClusterError | None = None
    ) -> "TrainingResult":
        """Return the result of a run that ends in this state."""
        return cls(
            W=(state.W if state.best is None else state.best).copy(),
            reason=reason,
            report=state.report if state.best is None else state.best_report,
            epochs=state.progress.epoch,
            steps=state.step,
            instances=state.instances,
            seconds=state.seconds,
            failure=failure,
            snapshot=None if reason is StopReason.DIVERGED else state.snapshot(),
        )
