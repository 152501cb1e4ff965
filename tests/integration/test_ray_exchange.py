"""Real Ray workers: the same bits for 1, 2, 3 and 5 of them, and clear words when one fails."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import ray

from cluster.convergence import StopReason, StopRule
from cluster.driver import Outcome, ParameterDriver, Recipe
from cluster.errors import FingerprintMismatch, ShardFailed, WorkerLost
from cluster.exchange import Exchange, InlineExchange
from cluster.fingerprint import take_fingerprint
from cluster.plan import Plan, Rows
from cluster.ray_exchange import RayExchange
from cluster.source import ArraySource
from cluster.worker import Task, Workload
from model.activations import make_activation
from model.checks import Array
from model.divergences import MultiClassKL
from model.initializers import initial_parameters
from model.network import Layer, Network
from model.optimizers import Momentum

pytestmark = pytest.mark.ray

ROWS = 301
NETWORK = Network(
    20,
    (Layer(24, make_activation("relu")), Layer(5, make_activation("softmax"))),
    MultiClassKL(),
)


def make_workload(batch: int | None) -> Workload:
    """Ragged everywhere: 301 rows, batches of 90, micro-shards of 16."""
    generator = np.random.default_rng(8)
    x = generator.standard_normal((ROWS, 20)).astype(np.float32)
    source = ArraySource(x, generator.integers(0, 5, ROWS))
    plans = {"train": Plan(ROWS, batch, 16, seed=4), "validation": Plan(ROWS, None, 16)}
    return Workload(NETWORK, {"train": source, "validation": source}, plans)


def train(workload: Workload, exchange: Exchange) -> Outcome:
    recipe = Recipe(NETWORK, Momentum(), 0.1, StopRule(3))
    driver = ParameterDriver(recipe, workload.plans["train"], exchange, validate=True)
    return driver.run(initial_parameters(NETWORK, seed=6).flat)


@pytest.mark.parametrize("batch", [None, 90], ids=["full batch", "mini-batch"])
def test_any_number_of_workers_gives_the_bits_of_inline(ray_cpus: int, batch: int | None) -> None:
    workload = make_workload(batch)
    alone = train(workload, InlineExchange(workload))
    assert alone.report is not None
    for workers in (1, 2, 3, 5):
        with RayExchange(workload, workers) as exchange:
            spread = train(workload, exchange)
        assert spread.W.tobytes() == alone.W.tobytes(), f"{workers} workers"
        assert spread.report is not None
        assert spread.report.train_loss == alone.report.train_loss
        assert spread.report.validation == alone.report.validation
        assert spread.instances == 3 * ROWS


class ArrivalOrder(RayExchange):
    """The mutation that the test above must catch: sums added as they arrive."""

    def total(self, task: Task, flat: Array) -> object:  # type: ignore[override]
        exact = super().total(task, flat)
        if task.kind == "evaluation":
            return exact
        parameters = ray.put(flat)
        plan = self._workload.plan(task)
        order = range(plan.shards - 1, -1, -1)
        actor = self._actors[0]
        gradient = np.zeros_like(flat)
        for shard in order:
            (node,) = ray.get(actor.compute.remote(task, [shard], parameters))
            gradient = gradient + node.sum.gradient
        return replace(exact, gradient=gradient)


def test_mutation_a_sum_in_arrival_order_is_caught(ray_cpus: int) -> None:
    workload = make_workload(None)
    alone = train(workload, InlineExchange(workload))
    with ArrivalOrder(workload, 2) as exchange:
        mutated = train(workload, exchange)
    np.testing.assert_allclose(mutated.W, alone.W, rtol=1e-2, atol=1e-4)
    assert mutated.W.tobytes() != alone.W.tobytes()


@dataclass(frozen=True)
class Faulty(ArraySource):
    """Does something dreadful when a certain row is fetched."""

    row: int
    act: Callable[[], None]

    def fetch(self, rows: Rows) -> tuple[Array, "np.typing.NDArray[np.generic]"]:
        if self.row in np.arange(ROWS)[rows]:
            self.act()
        return super().fetch(rows)


def run_out_of_memory() -> None:
    raise MemoryError("no room for the rows")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def faulty(act: Callable[[], None]) -> Workload:
    workload = make_workload(None)
    whole = workload.sources["train"]
    assert isinstance(whole, ArraySource)
    return replace(workload, sources={"train": Faulty(whole.x, whole.d, 100, act)})


def test_a_worker_that_raises_is_named_with_its_micro_shard(ray_cpus: int) -> None:
    workload = faulty(run_out_of_memory)
    with RayExchange(workload, 2) as exchange:
        outcome = train_without_validation(workload, exchange)
    assert outcome.reason is StopReason.FAILED
    assert isinstance(outcome.failure, ShardFailed)
    assert (outcome.failure.worker, outcome.failure.shard) == (0, 6)
    assert "MemoryError: no room for the rows" in str(outcome.failure)
    assert "epoch 1, step 1" in str(outcome.failure)


def test_a_worker_that_dies_is_named_with_what_it_did(ray_cpus: int) -> None:
    workload = faulty(die)
    with RayExchange(workload, 2) as exchange:
        outcome = train_without_validation(workload, exchange)
    assert isinstance(outcome.failure, WorkerLost)
    assert "worker 0 was lost while summing gradients in epoch 1, step 1" in str(outcome.failure)
    assert outcome.W.tobytes() == initial_parameters(NETWORK, seed=6).flat.tobytes()


def train_without_validation(workload: Workload, exchange: Exchange) -> Outcome:
    recipe = Recipe(NETWORK, Momentum(), 0.1, StopRule(3))
    driver = ParameterDriver(recipe, workload.plans["train"], exchange)
    return driver.run(initial_parameters(NETWORK, seed=6).flat)


def test_a_worker_with_another_arithmetic_is_refused(
    ray_cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cluster import ray_exchange

    other = replace(take_fingerprint(), blas="another BLAS")
    monkeypatch.setattr(ray_exchange, "take_fingerprint", lambda: other)
    with pytest.raises(FingerprintMismatch, match="worker 0's blas"):
        RayExchange(make_workload(None), 1)
