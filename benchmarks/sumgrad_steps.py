"""sumgrad as a contender: ``python -m benchmarks.sumgrad_steps BACKEND WORKERS [MICROBATCH_SIZE]``.

BACKEND is ``inline``, ``ray``, or ``remote``: workers on hosts of benchmarks/namespaces.py.
"""

import contextlib
import sys
import time
from itertools import pairwise

from benchmarks.cells import ETA, Cell, data
from benchmarks.contender import RunSteps, serve
from sumgrad.cluster.compute.worker import Workload
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import Plan, default_microbatch_size
from sumgrad.cluster.ray_backend.session import ray_session
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.cluster.reducers.process import ProcessReducer
from sumgrad.cluster.training.driver import ParameterDriver, TrainingConfig
from sumgrad.cluster.training.stopping import StopRule
from sumgrad.cluster.workers.launcher import Placement
from sumgrad.model.activations import make_activation
from sumgrad.model.divergences import MultiClassKL
from sumgrad.model.initializers import initial_parameters
from sumgrad.model.network import Layer, Network
from sumgrad.model.optimizers import GradientDescent


def make_network(cell: Cell) -> Network:
    """Return the cell's network."""
    hidden = [Layer(units, make_activation("relu")) for units in cell.hidden]
    output = Layer(cell.widths[-1], make_activation("softmax"))
    return Network(cell.widths[0], (*hidden, output), MultiClassKL())


def make_workload(cell: Cell, microbatch_size: int | None = None) -> Workload:
    """Return the cell's network, data and plan, with the default size of microbatches."""
    x, d = data()
    plan = Plan(len(x), cell.batch, microbatch_size or default_microbatch_size(cell.batch), seed=1)
    return Workload(make_network(cell), {"train": ArraySource(x, d)}, {"train": plan})


def prepare_steps(workload: Workload, reducer: GradientReducer) -> RunSteps:
    """Return a function that times the steps of the driver's own loop."""
    network, plan = workload.network, workload.plans["train"]
    W = initial_parameters(network, seed=0).flat

    def run(steps: int) -> list[float]:
        ends = [time.perf_counter()]
        epochs = -(-steps // plan.steps_per_epoch)
        config = TrainingConfig(network, GradientDescent(), ETA, StopRule(epochs))
        driver = ParameterDriver(
            config, plan, reducer, on_step=lambda _: ends.append(time.perf_counter())
        )
        driver.run(W)
        return [after - before for before, after in pairwise(ends)][:steps]

    return run


def open_reducer(backend: str, workload: Workload, workers: int) -> GradientReducer:
    """Return the reducer of a backend."""
    if backend == "ray":
        from sumgrad.cluster.ray_backend.reducer import RayReducer

        return RayReducer(workload, workers)
    if backend == "remote":
        from benchmarks.namespaces import DRIVER, NamespaceLauncher

        return ProcessReducer(
            workload, Placement(workers, host=DRIVER), NamespaceLauncher(workload)
        )
    return InlineReducer(workload, workers)


def main(backend: str, workers: int, microbatch_size: int | None) -> None:
    """Serve requests until stdin ends."""
    with contextlib.ExitStack() as stack:
        if backend == "ray":
            stack.enter_context(ray_session("local", workers))
        current = stack.enter_context(contextlib.ExitStack())

        def prepare(cell: Cell) -> RunSteps:
            current.close()
            workload = make_workload(cell, microbatch_size)
            reducer = current.enter_context(open_reducer(backend, workload, workers))
            return prepare_steps(workload, reducer)

        serve(prepare)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
