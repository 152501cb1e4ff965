"""A run that goes on from a snapshot is the run that was never interrupted."""

import json
from dataclasses import replace

import numpy as np
import pytest

from sumgrad.cluster.compute.worker import Workload
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import Plan
from sumgrad.cluster.reducers.base import InlineReducer
from sumgrad.cluster.training.driver import ParameterDriver, TrainingConfig
from sumgrad.cluster.training.state import EpochReport, Snapshot, TrainingResult, TrainingState
from sumgrad.cluster.training.stopping import EarlyStopping, StopReason, StopRule
from sumgrad.model.activations import make_activation
from sumgrad.model.divergences import MultiClassKL
from sumgrad.model.network import Layer, Network
from sumgrad.model.optimizers import Adam, Momentum, Optimizer
from sumgrad.model.schedules import StepDecay

EPOCHS, ROWS, BATCH = 4, 22, 8


def small() -> Workload:
    """Three classes in five dimensions, a validation set, and a last step that is short."""
    layers = (Layer(4, make_activation("tanh")), Layer(3, make_activation("softmax")))
    network = Network(5, layers, MultiClassKL())
    generator = np.random.default_rng(0)
    x = generator.standard_normal((ROWS, 5)).astype(np.float32)
    d = generator.integers(0, 3, ROWS)
    sources = {"train": ArraySource(x, d), "validation": ArraySource(x[:7], d[:7])}
    return Workload(
        network, sources, {"train": Plan(ROWS, BATCH, 3), "validation": Plan(7, None, 3)}
    )


class Run:
    """Runs that note a snapshot at every boundary."""

    def __init__(self, optimizer: Optimizer, *, early: bool) -> None:
        self.workload = small()
        self.snapshots: list[Snapshot] = []
        self.reports: list[EpochReport] = []
        stop = StopRule(EPOCHS, 1e-9, 2, EarlyStopping(patience=2) if early else None)
        self.config = TrainingConfig(self.workload.network, optimizer, 0.3, stop, StepDecay(3, 0.5))

    def run(self, start: Snapshot | None = None, stop_after: int | None = None) -> TrainingResult:
        """From the beginning or from a snapshot; stopped after so many boundaries."""
        seen = 0

        def on_boundary(state: TrainingState, _report: EpochReport | None) -> None:
            nonlocal seen
            seen += 1
            self.snapshots.append(state.snapshot())

        driver = ParameterDriver(
            self.config,
            self.workload.plans["train"],
            InlineReducer(self.workload),
            validate=True,
            on_epoch=self.reports.append,
            on_boundary=on_boundary,
            should_stop=lambda: StopReason.INTERRUPTED if seen == stop_after else None,
        )
        initial = np.linspace(-1, 1, self.workload.network.layout.size).astype(np.float32)
        return driver.run(initial if start is None else start)


def through_json(snapshot: Snapshot) -> Snapshot:
    """As it comes back from a file."""
    return Snapshot(snapshot.arrays, json.loads(json.dumps(snapshot.metadata)))


def without_times(report: EpochReport | None) -> EpochReport | None:
    return None if report is None else replace(report, seconds=0.0)


@pytest.mark.parametrize("optimizer", [Momentum(), Adam()])
@pytest.mark.parametrize("early", [False, True])
def test_going_on_from_any_boundary_gives_the_same(optimizer: Optimizer, early: bool) -> None:
    whole = Run(optimizer, early=early)
    expected = whole.run()
    # Three steps and the epoch's end, in each of the epochs.
    assert len(whole.snapshots) == 4 * expected.epochs
    for snapshot in whole.snapshots:
        again = Run(optimizer, early=early)
        outcome = again.run(through_json(snapshot))
        assert outcome.W.tobytes() == expected.W.tobytes()
        assert without_times(outcome.report) == without_times(expected.report)
        told = [without_times(report) for report in again.reports]
        assert told == [without_times(r) for r in whole.reports[len(whole.reports) - len(told) :]]
        assert (outcome.reason, outcome.steps, outcome.instances) == (
            expected.reason,
            expected.steps,
            expected.instances,
        )


def test_a_stopped_run_says_where_it_can_go_on_from() -> None:
    expected = Run(Adam(), early=False).run()
    stopped = Run(Adam(), early=False).run(stop_after=5)
    assert (stopped.reason, stopped.steps) == (StopReason.INTERRUPTED, 4)
    assert stopped.snapshot is not None
    rest = Run(Adam(), early=False).run(through_json(stopped.snapshot))
    assert rest.W.tobytes() == expected.W.tobytes()
    assert expected.snapshot is None


@pytest.mark.parametrize("lost", ["optimizer_state.mean", "last_finite"])
def test_what_a_snapshot_holds_is_needed(lost: str) -> None:
    """The mutation that the tests above must catch: an array that is not what it was."""
    whole = Run(Adam(), early=False)
    expected = whole.run()
    snapshot = whole.snapshots[2]
    arrays = dict(snapshot.arrays)
    arrays[lost] = np.zeros_like(arrays[lost])
    changed = TrainingState.restored(Snapshot(arrays, snapshot.metadata), InlineReducer(small()))
    assert not np.array_equal(changed.snapshot().arrays[lost], snapshot.arrays[lost])
    if lost != "last_finite":
        outcome = Run(Adam(), early=False).run(Snapshot(arrays, snapshot.metadata))
        assert outcome.W.tobytes() != expected.W.tobytes()


def test_a_snapshot_outlives_the_next_steps() -> None:
    whole = Run(Adam(), early=True)
    whole.run()
    hashes = [
        hash(s.arrays["W"].tobytes() + s.arrays["optimizer_state.mean"].tobytes())
        for s in whole.snapshots
    ]
    # The boundary of an epoch's last step and of the epoch hold the same weights.
    assert len(set(hashes)) == len(hashes) * 3 // 4
