"""What an reducer costs by itself: ``python -m benchmarks.exchange_cost``.

Two workers, two microbatches, and a network whose gradient is not computed: parameters go out, sums
of their size come back and are added. Within the machine, and over TCP as between machines.
"""

import statistics
import time
from dataclasses import dataclass

import numpy as np

from benchmarks.cells import Cell
from benchmarks.sumgrad_steps import network_of
from sumgrad.cluster.compute.worker import Task, Workload
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import Plan
from sumgrad.cluster.reducers.process import ProcessReducer
from sumgrad.cluster.workers.scaling_policy import ScalingPolicy
from sumgrad.model.divergences import Targets
from sumgrad.model.network import Cache, GradientSum, Network
from sumgrad.model.parameters import Parameters
from sumgrad.model.validation import Array
from tests.cluster.processes import ProcessLauncher

#: Hidden units that make some 10 k, 200 k, 0.9 M, 2 M and 5 M parameters.
WIDTHS = (12, 252, 1132, 2516, 6289)
WORKERS = 2


@dataclass(frozen=True)
class NoArithmetic(Network):
    """Hands back whatever the gradients' memory holds."""

    def gradient_sum(
        self,
        parameters: Parameters,
        x: Array,
        d: Targets,
        *,
        out: Parameters | None = None,
        cache: Cache | None = None,
    ) -> GradientSum:
        """Nothing is computed."""
        assert out is not None
        return GradientSum(0.0, out, len(x))


def milliseconds(width: int, *, far: bool) -> tuple[int, float]:
    """Parameters, and the median of a sum over both workers."""
    real = network_of(Cell((width,), 2))
    network = NoArithmetic(real.inputs, real.layers, real.divergence, real.dtype)
    source = ArraySource(np.zeros((2, real.inputs), np.float32), np.zeros(2, np.int64))
    workload = Workload(network, {"train": source}, {"train": Plan(2, None, 1)})
    workers = frozenset(range(WORKERS)) if far else frozenset()
    launcher = ProcessLauncher(workload, far=workers)
    seconds = []
    with ProcessReducer(workload, WORKERS, launcher, ScalingPolicy(host="127.0.0.1")) as reducer:
        W = reducer.shared_copy(np.zeros(network.layout.size, np.float32))
        for _ in range(200):
            began = time.perf_counter()
            reducer.reduce(Task("gradient", "train"), W)
            seconds.append(time.perf_counter() - began)
    return network.layout.size, 1e3 * statistics.median(seconds[20:])


def main() -> None:
    """Print a line for each size."""
    print("parameters   shared memory, ms   TCP, ms")
    for width in WIDTHS:
        size, local = milliseconds(width, far=False)
        _, remote = milliseconds(width, far=True)
        print(f"{size:>10,}   {local:>17.2f}   {remote:>7.2f}")


if __name__ == "__main__":
    main()
