"""scikit-learn's MLPClassifier as a contender: one process, one BLAS thread per core."""

import time

from sklearn.neural_network import MLPClassifier

from benchmarks.cells import CLASSES, ETA, ROWS, Cell, data
from benchmarks.contender import RunSteps, serve


def prepare(cell: Cell) -> RunSteps:
    """Return a function that runs whole epochs and divides their time among their steps."""
    x, d = data()
    model = MLPClassifier(
        hidden_layer_sizes=cell.hidden,
        batch_size=cell.batch,
        solver="sgd",
        learning_rate_init=ETA,
        momentum=0.0,
        nesterovs_momentum=False,
        alpha=0.0,
        random_state=0,
    )
    model.partial_fit(x[: cell.batch], d[: cell.batch], classes=list(range(CLASSES)))
    steps_per_epoch = ROWS // cell.batch

    def run(steps: int) -> list[float]:
        seconds: list[float] = []
        while len(seconds) < steps:
            began = time.perf_counter()
            model.partial_fit(x, d)
            seconds += [(time.perf_counter() - began) / steps_per_epoch] * steps_per_epoch
        return seconds[:steps]

    return run


if __name__ == "__main__":
    serve(prepare)
