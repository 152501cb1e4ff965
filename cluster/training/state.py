"""Everything that a run's next step depends on, and its snapshot, from which a run goes on.

A snapshot is plain: arrays by name, and facts that JSON can hold. Floats survive JSON bit by bit,
for Python writes the shortest text that reads back as the same number.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sumgrad.cluster.errors import ClusterError
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.cluster.training.stopping import RESUMABLE, Progress, StopReason
from sumgrad.model.optimizers import Optimizer, State
from sumgrad.model.validation import Array

#: Of the optimiser's arrays, in a snapshot.
_MEMORY = "optimizer_state."


@dataclass(frozen=True)
class Evaluation:
    """Over all rows of a source.

    Attributes:
        loss: (1/T) Σ Div.
        accuracy: The share of instances put into the right class; meaningless for a regression.
        count: T.
    """

    loss: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class EpochReport:
    """What is told of an epoch.

    Attributes:
        epoch: From 1.
        step: Steps of the run so far.
        train_loss: Mean divergence over the epoch's instances, each met before its update.
        validation: None without validation rows.
        gradient_norm: ‖∇Loss‖ of a step, on average over the epoch's steps.
        eta: The learning rate of the last step.
        instances: Instances summed in this epoch.
        seconds: Of the epoch's steps, validation not counted.
    """

    epoch: int
    step: int
    train_loss: float
    validation: Evaluation | None
    gradient_norm: float
    eta: float
    instances: int
    seconds: float

    @property
    def samples_per_s(self) -> float:
        """Instances summed in a second."""
        return self.instances / self.seconds if self.seconds else 0.0


@dataclass
class EpochAccumulator:
    """Sums over the steps of the epoch that is under way.

    Attributes:
        steps: Done in it.
        divergence: Σ Div.
        instances: Summed.
        norms: Σ ‖∇Loss‖ over the steps.
        eta: The learning rate of the last step.
        seconds: Spent on its steps.
    """

    steps: int = 0
    divergence: float = 0.0
    instances: int = 0
    norms: float = 0.0
    eta: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """A run at a step's boundary.

    Attributes:
        arrays: ``W``, ``good``, ``best`` where there is one, and the optimiser's.
        metadata: Position, sums and criterion.
    """

    arrays: Mapping[str, Array]
    metadata: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.metadata["step"])


@dataclass
class TrainingState:
    """A run under way.

    Attributes:
        W: The weights, flat.
        spare: Where the next weights will be written.
        good: The last weights whose loss was seen to be finite; with each update the three take
            each other's places.
        memory: Of the optimiser; written to by each update.
        step: Steps done.
        instances: Instances summed in all steps.
        seconds: Spent on steps.
        epoch: The epoch that is under way.
        progress: Of the criterion.
        report: Of the last epoch that was completed.
        best: The weights of the best validation loss, where that is asked for.
        best_report: The report of that epoch.
    """

    W: Array
    spare: Array
    good: Array
    memory: State
    step: int = 0
    instances: int = 0
    seconds: float = 0.0
    epoch: EpochAccumulator = field(default_factory=EpochAccumulator)
    progress: Progress = field(default_factory=Progress)
    report: EpochReport | None = None
    best: Array | None = None
    best_report: EpochReport | None = None

    @classmethod
    def initial(cls, W: Array, optimizer: Optimizer, reducer: GradientReducer) -> "TrainingState":
        """Before the first step, with vectors of the reducer."""
        W, spare, good = (reducer.shared_copy(W) for _ in range(3))
        return cls(W, spare, good, optimizer.init(W))

    @classmethod
    def restored(cls, snapshot: Snapshot, reducer: GradientReducer) -> "TrainingState":
        """As it was when the snapshot was taken, with vectors of the reducer.

        Raises:
            KeyError, TypeError, ValueError: The snapshot is not one.
        """
        arrays, facts = snapshot.arrays, dict(snapshot.metadata)
        reason = facts["progress"]["reason"]
        progress = facts["progress"] | {"reason": None if reason is None else StopReason(reason)}
        return cls(
            W=reducer.shared_copy(arrays["W"]),
            spare=reducer.shared_copy(arrays["W"]),
            good=reducer.shared_copy(arrays["last_finite"]),
            memory={
                name.removeprefix(_MEMORY): array.copy()
                for name, array in arrays.items()
                if name.startswith(_MEMORY)
            },
            step=int(facts["step"]),
            instances=int(facts["instances"]),
            seconds=float(facts["seconds"]),
            epoch=EpochAccumulator(**facts["epoch"]),
            progress=Progress(**progress),
            report=_report(facts["report"]),
            best=arrays["best"].copy() if "best" in arrays else None,
            best_report=_report(facts["best_report"]),
        )

    def snapshot(self) -> Snapshot:
        """A copy of all of it that outlives the next steps."""
        arrays = {"W": self.W.copy(), "last_finite": self.good.copy()}
        arrays |= {_MEMORY + name: np.array(array) for name, array in self.memory.items()}
        if self.best is not None:
            # Replaced, never written to.
            arrays["best"] = self.best
        facts = {
            "step": self.step,
            "instances": self.instances,
            "seconds": self.seconds,
            "epoch": asdict(self.epoch),
            "progress": asdict(self.progress),
            "report": None if self.report is None else asdict(self.report),
            "best_report": None if self.best_report is None else asdict(self.best_report),
        }
        return Snapshot(arrays, facts)

    def release(self, reducer: GradientReducer) -> None:
        """Give the vectors back."""
        for vector in (self.W, self.spare, self.good):
            reducer.release(vector)


def _report(facts: Mapping[str, Any] | None) -> EpochReport | None:
    if facts is None:
        return None
    seen = facts["validation"]
    return EpochReport(**dict(facts) | {"validation": None if seen is None else Evaluation(**seen)})


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        W: The weights to keep: the best, or the last good ones.
        reason: Why it ended.
        report: Of the epoch that W is from; None if no epoch was completed.
        epochs: Epochs completed.
        steps: Updates made.
        instances: Instances summed.
        seconds: Spent on steps, evaluation not counted.
        failure: The error that ended it, where one did.
        snapshot: Where it can be gone on from, if it was stopped or something failed.
    """

    W: Array
    reason: StopReason
    report: EpochReport | None
    epochs: int
    steps: int
    instances: int
    seconds: float
    failure: ClusterError | None = None
    snapshot: Snapshot | None = None

    @classmethod
    def of(
        cls, state: TrainingState, reason: StopReason, failure: ClusterError | None = None
    ) -> "TrainingResult":
        """The outcome of a run that is in this state now."""
        best = state.best
        return cls(
            W=(best if best is not None else state.W).copy(),
            reason=reason,
            report=state.best_report if best is not None else state.report,
            epochs=state.progress.epoch,
            steps=state.step,
            instances=state.instances,
            seconds=state.seconds,
            failure=failure,
            snapshot=state.snapshot() if reason in RESUMABLE else None,
        )
