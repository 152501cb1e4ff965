"""The cost of a reduction without arithmetic: ``python -m benchmarks.reducer_overhead --out DIR``.

Two workers compute two microbatches of a network whose gradient is free: parameters go out, sums of
their size come back and are added. Within the machine, and over TCP as between machines.
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.cells import Cell
from benchmarks.compare import table_head, write_report
from benchmarks.sumgrad_steps import make_network
from sumgrad.cluster.compute.worker import Task, Workload
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import Plan
from sumgrad.cluster.reducers.process import ProcessReducer
from sumgrad.cluster.workers.launcher import Placement
from sumgrad.model.network import GradientSum, Network
from tests.cluster.processes import ProcessLauncher

#: Hidden units of networks with about 10 k, 200 k, 0.9 M, 2 M and 5 M parameters.
TITLE = "Milliseconds per step of the exchange alone"
WIDTHS = (12, 252, 1132, 2516, 6289)
WORKERS = 2


@dataclass(frozen=True)
class FreeGradient(Network):
    """A network whose gradient takes no time."""

    def gradient_sum(self, *arguments: Any, **options: Any) -> GradientSum:
        """Return the content of `out`."""
        _, x, _ = arguments
        return GradientSum(0.0, options["out"], len(x))


def milliseconds(width: int, *, remote: bool) -> tuple[int, float]:
    """Return the number of parameters and the median duration of a reduction."""
    real = make_network(Cell((width,), 2))
    network = FreeGradient(real.inputs, real.layers, real.divergence, real.dtype)
    source = ArraySource(np.zeros((2, real.inputs), np.float32), np.zeros(2, np.int64))
    workload = Workload(network, {"train": source}, {"train": Plan(2, None, 1)})
    workers = frozenset(range(WORKERS)) if remote else frozenset()
    launcher = ProcessLauncher(workload, remote=workers)
    seconds = []
    placement = Placement(WORKERS, host="127.0.0.1")
    with ProcessReducer(workload, placement, launcher) as reducer:
        W = reducer.shared_copy(np.zeros(network.layout.size, np.float32))
        for _ in range(200):
            began = time.perf_counter()
            reducer.reduce(Task("gradient", "train"), W)
            seconds.append(time.perf_counter() - began)
    return network.layout.size, 1e3 * statistics.median(seconds[20:])


def main(out: Annotated[Path, typer.Option(help="Directory for the table.")]) -> None:
    """Measure each size and write a table."""
    lines = table_head(["parameters", "shared memory, ms", "TCP, ms"])
    for width in WIDTHS:
        size, local = milliseconds(width, remote=False)
        _, remote = milliseconds(width, remote=True)
        lines.append(f"| {size:,} | {local:.2f} | {remote:.2f} |")
    write_report(out / "reducer_overhead.md", TITLE, "\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
