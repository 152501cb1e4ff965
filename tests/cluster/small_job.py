"""The parts of the small job that tests share."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sumgrad.cluster.compute.worker import Task, Workload
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import Plan
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.cluster.training.driver import ParameterDriver, TrainingConfig
from sumgrad.cluster.training.state import TrainingResult
from sumgrad.cluster.training.stopping import StopReason, StopRule
from sumgrad.model.activations import make_activation
from sumgrad.model.divergences import MultiClassKL
from sumgrad.model.initializers import initial_parameters
from sumgrad.model.network import Layer, Network
from sumgrad.model.optimizers import Momentum
from sumgrad.model.validation import Array

#: A step over all rows of the small job.
TASK = Task("gradient", "full")

ShouldStop = Callable[[], StopReason | None]


@dataclass(frozen=True)
class SmallJob:
    """A network, what workers are given, and weights to start from."""

    network: Network
    workload: Workload
    W: Array

    def with_source(
        self, kind: type[ArraySource], *arguments: object, name: str = "full"
    ) -> "SmallJob":
        """Return the job with another source for some of its rows."""
        whole = self.workload.sources[name]
        assert isinstance(whole, ArraySource)
        sources = {**self.workload.sources, name: kind(whole.x, whole.d, *arguments)}
        return replace(self, workload=replace(self.workload, sources=sources))


ROWS = 107
_PAUSE_S = 0.02  #: Pause after a step of a run that waits for an event.


def make_small_job() -> SmallJob:
    """Return a job of 107 rows, batches of 40 and microbatches of 9: the last of each is short."""
    generator = np.random.default_rng(5)
    x = generator.standard_normal((ROWS, 12)).astype(np.float32)
    d = generator.integers(0, 4, ROWS)
    network = Network(
        12,
        (Layer(16, make_activation("tanh")), Layer(4, make_activation("softmax"))),
        MultiClassKL(),
    )
    source = ArraySource(x, d)
    plans = {
        "train": Plan(ROWS, 40, 9, seed=3),
        "full": Plan(ROWS, None, 9),
        "validation": Plan(ROWS, None, 9),
    }
    workload = Workload(network, dict.fromkeys(plans, source), plans)
    return SmallJob(network, workload, initial_parameters(network, seed=1).flat)


def train(
    job: SmallJob,
    reducer: GradientReducer,
    *,
    epochs: int = 10**6,
    on_step: Callable[[], None] = lambda: None,
    should_stop: ShouldStop = lambda: None,
) -> TrainingResult:
    """Train until there is a reason to stop."""
    driver = ParameterDriver(
        TrainingConfig(job.network, Momentum(), 0.1, StopRule(epochs)),
        job.workload.plans["train"],
        reducer,
        validate=True,
        on_step=lambda _: on_step(),
        should_stop=should_stop,
    )
    return driver.run(job.W)


def stop_after(steps: int) -> ShouldStop:
    """Return a condition that stops a run after a number of steps."""
    left = iter(range(steps))
    return lambda: None if next(left, None) is not None else StopReason.TERMINATED


def stop_when(condition: Callable[[], bool]) -> ShouldStop:
    """Return a condition that stops a run once this one holds.

    The run pauses after each step, because processes that start meanwhile need the CPUs.
    """

    def should_stop() -> StopReason | None:
        if condition():
            return StopReason.TERMINATED
        time.sleep(_PAUSE_S)
        return None

    return should_stop


def weights_after(job: SmallJob, steps: int) -> bytes:
    """Return the weights of an undisturbed run after a number of steps."""
    with InlineReducer(job.workload) as reducer:
        result = train(job, reducer, should_stop=stop_after(steps))
    assert result.steps == steps
    return result.W.tobytes()


def assert_undisturbed(job: SmallJob, result: TrainingResult) -> None:
    """Assert that a run's weights are bit-identical to those of one in which nothing happened."""
    assert result.failure is None
    assert result.W.tobytes() == weights_after(job, result.steps)


def sum_bytes(reducer: GradientReducer, job: SmallJob, task: Task = TASK) -> bytes:
    """Return the bytes of a gradient sum at the job's initial weights."""
    total = reducer.reduce(task, job.W)
    assert total.gradient is not None
    return total.gradient.tobytes()


def expected_sum(job: SmallJob, task: Task = TASK) -> bytes:
    """Return the bytes of the same sum without other processes."""
    with InlineReducer(job.workload) as reducer:
        return sum_bytes(reducer, job, task)
