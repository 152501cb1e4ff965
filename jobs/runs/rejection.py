"""What a model with a class 'none of the above' does with digits and with non-digits."""

from dataclasses import dataclass

import numpy as np

from sumgrad.jobs.artifacts.saved_model import SavedModel
from sumgrad.jobs.data.prepare import Dataset, PreparedData


@dataclass(frozen=True)
class Rejection:
    """Shares of rows that went into the reject class.

    Attributes:
        digits: Of real test digits; the fewer the better.
        kinds: Of non-digits, by kind.
        unseen: The kinds that training never saw.
    """

    digits: float
    kinds: dict[str, float]
    unseen: tuple[str, ...]

    def metrics(self) -> dict[str, float]:
        """As MLflow metrics."""
        return {"test_rejected_digits": self.digits} | {
            f"test_rejected_{kind}": share for kind, share in self.kinds.items()
        }

    def lines(self) -> list[str]:
        """For a person."""
        return [f"rejects   {self.digits:.1%} of real digits"] + [
            f"          {share:.1%} of '{kind}' non-digits"
            + (" (a kind not seen in training)" if kind in self.unseen else "")
            for kind, share in self.kinds.items()
        ]


def measure_rejection(
    model: SavedModel, data: PreparedData, unseen: tuple[str, ...]
) -> Rejection | None:
    """Count what is rejected among the test rows; None without a reject class or test rows."""
    if model.schema.reject is None or data.test is None:
        return None
    reject = model.network.outputs - 1
    digits = data.test.d != reject
    y = model.outputs(data.test.x[digits])
    return Rejection(
        digits=float(np.mean(y.argmax(axis=1) == reject)),
        kinds={
            kind: _share(model, rows, reject) for kind, rows in data.out_of_distribution.items()
        },
        unseen=unseen,
    )


def _share(model: SavedModel, rows: Dataset, reject: int) -> float:
    return float(np.mean(model.outputs(rows.x).argmax(axis=1) == reject))
