"""Real Ray workers: the same bits for 1, 2, 3 and 5 of them, and clear words when one fails."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.exceptions import (
    ActorUnschedulableError,
    OutOfMemoryError,
    RayError,
    RuntimeEnvSetupError,
)

from sumgrad.cluster.compute.fingerprint import compute_fingerprint
from sumgrad.cluster.compute.worker import Workload
from sumgrad.cluster.errors import FingerprintMismatch, MicrobatchFailed
from sumgrad.cluster.planning import stragglers
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import Plan, RowIndices
from sumgrad.cluster.planning.reduction import Node, TreeReduction
from sumgrad.cluster.ray_backend.placement import Placement
from sumgrad.cluster.ray_backend.reducer import RayLauncher, RayReducer
from sumgrad.cluster.reducers import process
from sumgrad.cluster.reducers.base import GradientReducer
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.cluster.training.driver import ParameterDriver, TrainingConfig
from sumgrad.cluster.training.state import TrainingResult
from sumgrad.cluster.training.stopping import StopReason, StopRule
from sumgrad.cluster.transport.connection import Address
from sumgrad.cluster.workers import worker_group
from sumgrad.cluster.workers.scaling_policy import ScalingPolicy
from sumgrad.model.activations import make_activation
from sumgrad.model.divergences import MultiClassKL
from sumgrad.model.initializers import initial_parameters
from sumgrad.model.network import Layer, Network
from sumgrad.model.optimizers import Momentum
from sumgrad.model.validation import Array

pytestmark = pytest.mark.ray

ROWS = 301
NETWORK = Network(
    20,
    (Layer(24, make_activation("relu")), Layer(5, make_activation("softmax"))),
    MultiClassKL(),
)


def make_workload(batch: int | None) -> Workload:
    """Ragged everywhere: 301 rows, batches of 90, microbatches of 16."""
    generator = np.random.default_rng(8)
    x = generator.standard_normal((ROWS, 20)).astype(np.float32)
    source = ArraySource(x, generator.integers(0, 5, ROWS))
    plans = {"train": Plan(ROWS, batch, 16, seed=4), "validation": Plan(ROWS, None, 16)}
    return Workload(NETWORK, {"train": source, "validation": source}, plans)


def train(workload: Workload, reducer: GradientReducer) -> TrainingResult:
    config = TrainingConfig(NETWORK, Momentum(), 0.1, StopRule(3))
    driver = ParameterDriver(config, workload.plans["train"], reducer, validate=True)
    return driver.run(initial_parameters(NETWORK, seed=6).flat)


@pytest.mark.parametrize("batch", [None, 90], ids=["full batch", "mini-batch"])
def test_any_number_of_workers_gives_the_bits_of_inline(ray_cpus: int, batch: int | None) -> None:
    workload = make_workload(batch)
    alone = train(workload, InlineReducer(workload))
    assert alone.report is not None
    for workers in (1, 2, 3, 5):
        with RayReducer(workload, workers) as reducer:
            spread = train(workload, reducer)
        assert spread.W.tobytes() == alone.W.tobytes(), f"{workers} workers"
        assert spread.report is not None
        assert spread.report.train_loss == alone.report.train_loss
        assert spread.report.validation == alone.report.validation
        assert spread.instances == 3 * ROWS


def in_arrival_order(nodes: list[Node], leaves: int, add_pairs: object) -> TreeReduction:
    """The mutation that the test above must catch: sums added as they arrive."""
    first, *others = nodes
    for node in others:
        assert first.sum.gradient is not None
        assert node.sum.gradient is not None
        first.sum.gradient += node.sum.gradient
        first.sum.divergence += node.sum.divergence
        first.sum.count += node.sum.count
    tree = TreeReduction(1)
    tree.add(Node(0, 0, first.sum))
    return tree


def test_mutation_a_sum_in_arrival_order_is_caught(
    ray_cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = make_workload(None)
    alone = train_without_validation(workload, InlineReducer(workload))
    monkeypatch.setattr(process, "reduce_nodes", in_arrival_order)
    with RayReducer(workload, 3) as reducer:
        mutated = train_without_validation(workload, reducer)
    np.testing.assert_allclose(mutated.W, alone.W, rtol=1e-2, atol=1e-4)
    assert mutated.W.tobytes() != alone.W.tobytes()


@dataclass(frozen=True)
class Faulty(ArraySource):
    """Does something dreadful when a certain row is fetched."""

    row: int
    act: Callable[[], None]

    def read(
        self, rows: RowIndices, out: Array | None = None
    ) -> tuple[Array, "np.typing.NDArray[np.generic]"]:
        if self.row in np.arange(ROWS)[rows]:
            self.act()
        return super().read(rows, out)


def run_out_of_memory() -> None:
    raise MemoryError("no room for the rows")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def faulty(act: Callable[[], None], row: int = 100) -> Workload:
    workload = make_workload(None)
    whole = workload.sources["train"]
    assert isinstance(whole, ArraySource)
    return replace(workload, sources={"train": Faulty(whole.x, whole.d, row, act)})


def test_a_worker_that_raises_is_named_with_its_micro_shard(ray_cpus: int) -> None:
    workload = faulty(run_out_of_memory)
    with RayReducer(workload, 2) as reducer:
        outcome = train_without_validation(workload, reducer)
    assert outcome.reason is StopReason.FAILED
    assert isinstance(outcome.failure, MicrobatchFailed)
    assert outcome.failure.microbatch == 6
    assert outcome.failure.worker in (0, 1), "either may have had it"
    assert "MemoryError: no room for the rows" in str(outcome.failure)
    assert "epoch 1, step 1" in str(outcome.failure)


def test_a_micro_shard_that_ends_three_workers_ends_the_run(ray_cpus: int) -> None:
    workload = faulty(die)
    with RayReducer(workload, 2) as reducer:
        outcome = train_without_validation(workload, reducer)
    assert isinstance(outcome.failure, MicrobatchFailed)
    assert outcome.failure.microbatch == 6
    assert "3 workers ended or froze while they computed it" in str(outcome.failure)
    assert outcome.W.tobytes() == initial_parameters(NETWORK, seed=6).flat.tobytes()


def test_a_killed_worker_is_replaced_and_no_bit_changes(ray_cpus: int) -> None:
    workload = make_workload(90)
    alone = train_without_validation(workload, InlineReducer(workload))
    seen: list[dict[int, int]] = []
    with RayReducer(workload, 2) as reducer:

        def kill_one(step: int) -> None:
            if not seen:
                seen.append(reducer.pids)
                os.kill(reducer.pids[0], signal.SIGKILL)
            elif len(reducer.pids) == 2 and reducer.pids != seen[0]:
                seen[1:] = [reducer.pids]

        config = TrainingConfig(NETWORK, Momentum(), 0.1, StopRule(1000))
        driver = ParameterDriver(
            config,
            workload.plans["train"],
            reducer,
            on_step=kill_one,
            should_stop=lambda: StopReason.TERMINATED if len(seen) > 1 else None,
        )
        outcome = driver.run(initial_parameters(NETWORK, seed=6).flat)
    assert outcome.reason is StopReason.TERMINATED, outcome.failure
    before, after = seen
    assert before[1] == after[1]
    assert before[0] != after[0]
    steps = iter(range(outcome.steps))
    driver = ParameterDriver(
        config,
        workload.plans["train"],
        InlineReducer(workload),
        should_stop=lambda: None if next(steps, None) is not None else StopReason.TERMINATED,
    )
    alone = driver.run(initial_parameters(NETWORK, seed=6).flat)
    assert alone.steps == outcome.steps
    assert outcome.W.tobytes() == alone.W.tobytes()


@dataclass(frozen=True)
class DieOnce:
    """In the middle of the work of whoever comes first; it leaves its process id."""

    marker: str

    def __call__(self) -> None:
        with contextlib.suppress(FileExistsError), Path(self.marker).open("x") as marker:
            marker.write(str(os.getpid()))
            marker.flush()
            die()


def test_a_kill_in_the_middle_of_computing_costs_no_bit(ray_cpus: int, tmp_path: Path) -> None:
    """Row 290 is in the last but none of nineteen microbatches: the worker has summed others."""
    marker, notes = tmp_path / "killed", list[str]()
    workload = faulty(DieOnce(str(marker)), row=290)
    whole = make_workload(None)
    alone = train_without_validation(whole, InlineReducer(whole))
    with RayReducer(workload, 3, rules=ScalingPolicy(note=notes.append)) as reducer:
        before = reducer.pids
        outcome = train_without_validation(workload, reducer)
        killed = int(marker.read_text())
        others = {worker: pid for worker, pid in before.items() if pid != killed}
        assert len(others) == 2
        assert reducer.pids.items() >= others.items()
    assert outcome.failure is None
    assert outcome.W.tobytes() == alone.W.tobytes()
    assert "is gone; another takes its place" in notes[0]


def test_one_that_does_not_get_through_at_first_is_started_again(
    ray_cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A starting worker's connection that fails is no reason to end a run."""
    workload, notes, starts = make_workload(90), list[str](), list[int]()
    start = RayLauncher.start

    def unlucky(self: RayLauncher, worker: int, address: Address, secret: bytes) -> None:
        starts.append(worker)
        start(self, worker, address, b"another" if len(starts) == 3 else secret)

    monkeypatch.setattr(RayLauncher, "start", unlucky)
    with RayReducer(workload, 2, rules=ScalingPolicy(note=notes.append)) as reducer:
        before = reducer.pids

        def kill_one(step: int) -> None:
            if reducer.pids == before:
                os.kill(before[1], signal.SIGKILL)

        def is_replaced() -> StopReason | None:
            replaced = reducer.pids.get(1) not in (None, before[1])
            return StopReason.TERMINATED if replaced else None

        config = TrainingConfig(NETWORK, Momentum(), 0.1, StopRule(10**6))
        driver = ParameterDriver(
            config, workload.plans["train"], reducer, on_step=kill_one, should_stop=is_replaced
        )
        outcome = driver.run(initial_parameters(NETWORK, seed=6).flat)
        assert reducer.pids[0] == before[0]
    assert outcome.failure is None
    assert outcome.reason is StopReason.TERMINATED, notes
    assert starts == [0, 1, 1, 1]
    assert "worker 1 did not start (a connection was turned away" in notes[1]


def test_an_instance_of_our_own_needs_no_reservation(ray_cpus: int) -> None:
    reservation = Placement(3, ScalingPolicy())
    assert reservation.group is None
    assert (reservation.first, reservation.extra, reservation.share()) == (3, 0, 3)
    assert all(map(reservation.is_kept, range(3)))
    assert not reservation.has_others


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("the node ran out of memory"),  # type: ignore[no-untyped-call]  # Ray's
        RuntimeEnvSetupError("no environment"),
        ActorUnschedulableError("no node for it"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_ray_says_of_a_worker_is_a_reason(
    ray_cpus: int, monkeypatch: pytest.MonkeyPatch, error: RayError
) -> None:
    def refuse(_: object) -> None:
        raise error

    launcher = RayLauncher(make_workload(None), Placement(1, ScalingPolicy()))
    launcher._serving[0] = ray.put(None)
    monkeypatch.setattr(ray, "get", refuse)
    reason = launcher.exit_reason(0)
    assert reason is not None
    assert reason.split()[-1] in str(error)


def test_a_frozen_worker_is_replaced_and_its_process_ended(
    ray_cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stragglers, "_LOST_S", 1.0)
    workload, notes = make_workload(90), list[str]()
    steps = 0
    with RayReducer(workload, 2, rules=ScalingPolicy(note=notes.append)) as reducer:
        before = reducer.pids

        def freeze_one(step: int) -> None:
            nonlocal steps
            steps += 1
            if steps == 3:
                os.kill(before[0], signal.SIGSTOP)

        def is_replaced() -> StopReason | None:
            replaced = reducer.pids.get(0) not in (None, before[0])
            return StopReason.TERMINATED if replaced else None

        config = TrainingConfig(NETWORK, Momentum(), 0.1, StopRule(10**6))
        plan = workload.plans["train"]
        driver = ParameterDriver(config, plan, reducer, on_step=freeze_one, should_stop=is_replaced)
        outcome = driver.run(initial_parameters(NETWORK, seed=6).flat)
        deadline = time.monotonic() + 10
        while Path(f"/proc/{before[0]}").exists():
            assert time.monotonic() < deadline, "the frozen process is still there"
            time.sleep(0.05)
    assert outcome.reason is StopReason.TERMINATED, notes
    left = iter(range(outcome.steps))
    driver = ParameterDriver(
        config,
        plan,
        InlineReducer(workload),
        should_stop=lambda: None if next(left, None) is not None else StopReason.TERMINATED,
    )
    alone = driver.run(initial_parameters(NETWORK, seed=6).flat)
    assert outcome.W.tobytes() == alone.W.tobytes()


def train_without_validation(workload: Workload, reducer: GradientReducer) -> TrainingResult:
    config = TrainingConfig(NETWORK, Momentum(), 0.1, StopRule(3))
    driver = ParameterDriver(config, workload.plans["train"], reducer)
    return driver.run(initial_parameters(NETWORK, seed=6).flat)


def test_a_worker_with_another_arithmetic_is_refused(
    ray_cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(compute_fingerprint(), blas="another BLAS")
    monkeypatch.setattr(worker_group, "compute_fingerprint", lambda: other)
    with pytest.raises(FingerprintMismatch, match=r"worker \d's blas"):
        RayReducer(make_workload(None), 1)
