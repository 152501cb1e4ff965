"""How often a model with a reject class rejects digits and out-of-distribution images."""

from dataclasses import dataclass

import numpy as np

from sumgrad.jobs.artifacts.saved_model import SavedModel
from sumgrad.jobs.data.prepare import Dataset, PreparedData


@dataclass(frozen=True)
class Rejection:
    """The fractions of rows that a model rejects.

    Attributes:
        digits: Of real test digits; the lower the better.
        kinds: Of out-of-distribution images, by kind.
        unseen: The kinds that were not in the training rows.
    """

    digits: float
    kinds: dict[str, float]
    unseen: tuple[str, ...]

    def metrics(self) -> dict[str, float]:
        """Return the fractions as MLflow metrics."""
        return {"test_rejected_digits": self.digits} | {
            f"test_rejected_{kind}": share for kind, share in self.kinds.items()
        }

    def lines(self) -> list[str]:
        """Return lines for the summary."""
        return [f"rejects   {self.digits:.1%} of real digits"] + [
            f"          {share:.1%} of '{kind}' non-digits"
            + (" (a kind not seen in training)" if kind in self.unseen else "")
            for kind, share in self.kinds.items()
        ]


def measure_rejection(
    model: SavedModel, data: PreparedData, unseen: tuple[str, ...]
) -> Rejection | None:
    """Count the rejected test rows; None without a reject class or test rows."""
    if model.schema.reject is None or data.test is None:
        return None
    reject = model.network.outputs - 1
    x = data.test.x[data.test.d != reject]
    return Rejection(
        digits=float(np.mean(model.outputs(x).argmax(axis=1) == reject)),
        kinds={
            kind: _rejected(model, rows, reject) for kind, rows in data.out_of_distribution.items()
        },
        unseen=unseen,
    )


def _rejected(model: SavedModel, rows: Dataset, reject: int) -> float:
    return float(np.mean(model.outputs(rows.x).argmax(axis=1) == reject))
