"""A run that resumes from a snapshot is the run that was never interrupted."""

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from sumgrad.cluster.compute.worker import Workload
from sumgrad.cluster.planning.data_source import ArraySource
from sumgrad.cluster.planning.plan import Plan
from sumgrad.cluster.planning.reduction import PartialSum
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.cluster.training.driver import ParameterDriver, TrainingConfig
from sumgrad.cluster.training.state import (
    EpochAccumulator,
    EpochReport,
    Evaluation,
    Snapshot,
    TrainingResult,
    TrainingState,
)
from sumgrad.cluster.training.stopping import EarlyStopping, StopReason, StopRule
from sumgrad.model.activations import make_activation
from sumgrad.model.divergences import MultiClassKL
from sumgrad.model.network import Layer, Network
from sumgrad.model.optimizers import Adam, Momentum, Optimizer
from sumgrad.model.schedules import StepDecay

EPOCHS, ROWS, BATCH = 4, 22, 8


def make_workload() -> Workload:
    """Return three classes in five dimensions, with validation rows and a small last step."""
    layers = (Layer(4, make_activation("tanh")), Layer(3, make_activation("softmax")))
    network = Network(5, layers, MultiClassKL())
    generator = np.random.default_rng(0)
    x = generator.standard_normal((ROWS, 5)).astype(np.float32)
    d = generator.integers(0, 3, ROWS)
    sources = {"train": ArraySource(x, d), "validation": ArraySource(x[:7], d[:7])}
    plans = {"train": Plan(ROWS, BATCH, 3), "validation": Plan(7, None, 3)}
    return Workload(network, sources, plans)


class Run:
    """A run that takes a snapshot at every boundary."""

    def __init__(self, optimizer: Optimizer, *, early: bool) -> None:
        self.workload = make_workload()
        self.snapshots: list[Snapshot] = []
        self.reports: list[EpochReport] = []
        stop = StopRule(EPOCHS, 1e-9, 2, EarlyStopping(patience=2) if early else None)
        network = self.workload.network
        self.config = TrainingConfig(network, optimizer, 0.3, stop, StepDecay(3, 0.5))

    def run(self, start: Snapshot | None = None, stop_after: int | None = None) -> TrainingResult:
        """Run from the beginning or a snapshot, and stop after a number of boundaries."""

        def on_epoch(state: TrainingState, report: EpochReport) -> None:
            self.reports.append(report)
            self.snapshots.append(state.snapshot())

        def should_stop() -> StopReason | None:
            return StopReason.INTERRUPTED if len(self.snapshots) == stop_after else None

        initial = np.linspace(-1, 1, self.workload.network.layout.size).astype(np.float32)
        with InlineReducer(self.workload) as reducer:
            return ParameterDriver(
                self.config,
                self.workload.plans["train"],
                reducer,
                validate=True,
                on_step=lambda state: self.snapshots.append(state.snapshot()),
                on_epoch=on_epoch,
                should_stop=should_stop,
            ).run(initial if start is None else start)


def through_json(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot as it is read from a file."""
    return Snapshot(snapshot.arrays, json.loads(json.dumps(snapshot.metadata)))


def without_seconds(report: EpochReport | None) -> EpochReport | None:
    return None if report is None else replace(report, seconds=0.0)


@pytest.mark.parametrize("optimizer", [Momentum(), Adam()])
@pytest.mark.parametrize("early", [False, True])
def test_resuming_at_any_boundary_gives_the_same_run(optimizer: Optimizer, early: bool) -> None:
    whole = Run(optimizer, early=early)
    expected = whole.run()
    assert expected.report is not None
    last = whole.snapshots[-1].metadata["progress"]
    assert expected.report.epoch == last["best_epoch" if early else "epoch"]
    # Each epoch has the boundaries of three steps and its own.
    assert len(whole.snapshots) == 4 * expected.epochs
    for snapshot in whole.snapshots:
        resumed = Run(optimizer, early=early)
        result = resumed.run(through_json(snapshot))
        assert result.W.tobytes() == expected.W.tobytes()
        assert without_seconds(result.report) == without_seconds(expected.report)
        reports = [without_seconds(report) for report in whole.reports]
        assert [without_seconds(report) for report in resumed.reports] == (
            reports[len(reports) - len(resumed.reports) :]
        )
        assert (result.reason, result.epochs, result.steps, result.instances) == (
            expected.reason,
            expected.epochs,
            expected.steps,
            expected.instances,
        )


def test_a_stopped_run_returns_the_snapshot_to_resume_from() -> None:
    expected = Run(Adam(), early=False).run()
    stopped = Run(Adam(), early=False).run(stop_after=5)
    assert (stopped.reason, stopped.steps) == (StopReason.INTERRUPTED, 4)
    assert stopped.snapshot is not None
    assert stopped.snapshot.step == 4
    resumed = Run(Adam(), early=False).run(through_json(stopped.snapshot))
    assert resumed.W.tobytes() == expected.W.tobytes()
    assert expected.snapshot is not None, "the evaluation after it can be resumed"


@pytest.mark.parametrize("name", ["optimizer_state.mean", "W"])
def test_mutation_a_lost_array_of_a_snapshot_changes_the_result(name: str) -> None:
    """The mutation that the tests above must catch: an array that is not restored."""
    whole = Run(Adam(), early=False)
    expected = whole.run()
    snapshot = whole.snapshots[2]
    arrays = dict(snapshot.arrays) | {name: np.zeros_like(snapshot.arrays[name])}
    result = Run(Adam(), early=False).run(Snapshot(arrays, snapshot.metadata))
    assert result.W.tobytes() != expected.W.tobytes()


@pytest.mark.parametrize("early", [False, True])
def test_a_restored_state_gives_the_same_snapshot(early: bool) -> None:
    whole = Run(Adam(), early=early)
    whole.run()
    for snapshot in whole.snapshots:
        read = through_json(snapshot)
        state = TrainingState.restore(read, InlineReducer(whole.workload))
        again = state.snapshot()
        assert json.dumps(again.metadata) == json.dumps(snapshot.metadata)
        assert again.arrays.keys() == snapshot.arrays.keys()
        assert ("best" in again.arrays) == (early and read.metadata["best_report"] is not None)
        for name, array in snapshot.arrays.items():
            assert again.arrays[name].tobytes() == array.tobytes()
        state.W[:] = state.next[:] = state.last_finite[:] = 7
        for array in state.optimizer_state.values():
            array[...] = 7
        assert read.arrays["W"].tobytes() == again.arrays["W"].tobytes(), "restore copies"


def test_a_snapshot_does_not_change_with_later_steps() -> None:
    whole = Run(Adam(), early=True)
    whole.run()
    contents = {
        s.arrays["W"].tobytes() + s.arrays["optimizer_state.mean"].tobytes()
        for s in whole.snapshots
    }
    # The boundaries of an epoch and of its last step have the same weights.
    assert len(contents) == len(whole.snapshots) * 3 // 4


def test_the_last_finite_weights_are_those_before_the_step() -> None:
    whole = Run(Momentum(), early=False)
    whole.run()
    steps = [s for i, s in enumerate(whole.snapshots) if i % 4 != 3]
    for before, after in pairwise(steps):
        assert after.arrays["last_finite"].tobytes() == before.arrays["W"].tobytes()


@pytest.mark.parametrize(
    "damage",
    [
        {"progress": {"reason": "boredom"}},
        {"progress": {"unknown": 1}},
        {"epoch": []},
        {"step": None},
        {"report": {"epoch": 1}},
    ],
)
def test_an_invalid_snapshot_is_refused(damage: dict[str, Any]) -> None:
    run = Run(Momentum(), early=False)
    run.run(stop_after=4)
    snapshot = run.snapshots[-1]
    damaged = Snapshot(snapshot.arrays, dict(snapshot.metadata) | damage)
    with pytest.raises((KeyError, TypeError, ValueError)):
        TrainingState.restore(damaged, InlineReducer(run.workload))
    with pytest.raises(KeyError):
        TrainingState.restore(Snapshot({}, snapshot.metadata), InlineReducer(run.workload))


def test_steps_add_up_and_rotate_the_vectors() -> None:
    a, b, c = (np.full(2, i) for i in (1.0, 2.0, 3.0))
    state = TrainingState(a, b, c, {})
    state.finish_step(PartialSum(None, 5.0, 0, 8), norm=0.5, eta=0.1, seconds=2.0)
    assert [each[0] for each in (state.W, state.next, state.last_finite)] == [2.0, 3.0, 1.0]
    state.finish_step(PartialSum(None, 4.0, 0, 6), norm=0.25, eta=0.2, seconds=1.0)
    assert [each[0] for each in (state.W, state.next, state.last_finite)] == [3.0, 1.0, 2.0]
    assert (state.step, state.instances, state.seconds) == (2, 14, 3.0)
    assert state.epoch == EpochAccumulator(2, 9.0, 14, 0.75, 0.2, 3.0)


def test_a_rate_is_instances_per_second() -> None:
    report = EpochReport(1, 2, 0.5, Evaluation(0.5, 1.0, 3), 0.1, 0.3, 12, 4.0)
    assert report.samples_per_s == 3.0
    assert replace(report, seconds=0.0).samples_per_s == 0.0
