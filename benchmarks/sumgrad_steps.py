"""sumgrad as a contender: ``python -m benchmarks.sumgrad_steps ray 2``; or inline, or far."""

import contextlib
import sys
import time
from itertools import pairwise

from benchmarks.cells import ETA, Cell, data
from benchmarks.contender import RunSteps, answer
from sumgrad.cluster.compute.worker import Workload
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import Plan, default_microbatch_size
from sumgrad.cluster.ray_backend.session import ray_session
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.cluster.reducers.process import ProcessReducer
from sumgrad.cluster.training.driver import ParameterDriver, TrainingConfig
from sumgrad.cluster.training.stopping import StopRule
from sumgrad.cluster.workers.scaling_policy import ScalingPolicy
from sumgrad.model.activations import make_activation
from sumgrad.model.divergences import MultiClassKL
from sumgrad.model.initializers import initial_parameters
from sumgrad.model.network import Layer, Network
from sumgrad.model.optimizers import GradientDescent


def network_of(cell: Cell) -> Network:
    """The cell's network."""
    hidden = [Layer(units, make_activation("relu")) for units in cell.hidden]
    output = Layer(cell.widths[-1], make_activation("softmax"))
    return Network(cell.widths[0], (*hidden, output), MultiClassKL())


def workload_of(cell: Cell, microbatch_size: int | None = None) -> Workload:
    """The cell's network, data and plan, with the microbatches that a job has by default."""
    x, d = data()
    plan = Plan(len(x), cell.batch, microbatch_size or default_microbatch_size(cell.batch), seed=1)
    return Workload(network_of(cell), {"train": ArraySource(x, d)}, {"train": plan})


def run_steps(workload: Workload, reducer: GradientReducer) -> RunSteps:
    """Steps of the driver's own loop, timed from one to the next."""
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


def exchange_at(place: str, workload: Workload, workers: int) -> GradientReducer:
    """Ray's workers, threads, or workers on hosts of their own."""
    if place == "ray":
        from sumgrad.cluster.ray_backend.reducer import RayReducer

        return RayReducer(workload, workers)
    if place == "far":
        from benchmarks.namespaces import DRIVER, NamespaceLauncher

        return ProcessReducer(
            workload, workers, NamespaceLauncher(workload), ScalingPolicy(host=DRIVER)
        )
    return InlineReducer(workload, workers)


def main(place: str, workers: int, microbatch_size: int | None) -> None:
    """Answer until stdin ends."""
    with contextlib.ExitStack() as stack:
        if place == "ray":
            stack.enter_context(ray_session("local", workers))
        current = stack.enter_context(contextlib.ExitStack())

        def prepare(cell: Cell) -> RunSteps:
            current.close()
            workload = workload_of(cell, microbatch_size)
            reducer = current.enter_context(exchange_at(place, workload, workers))
            return run_steps(workload, reducer)

        answer(prepare)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
