"""How a run ends whose training is done but whose test rows cannot be evaluated."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from sumgrad.cluster.compute.worker import Task
from sumgrad.cluster.errors import WorkerLost
from sumgrad.cluster.planning.reduction import PartialSum
from sumgrad.cluster.reducers.inline import InlineReducer
from sumgrad.cluster.training.stopping import StopReason
from sumgrad.jobs.data.prepare import prepare
from sumgrad.jobs.errors import Interrupted
from sumgrad.jobs.runs.build import build_job
from sumgrad.jobs.runs.progress import PlainReporter
from sumgrad.jobs.runs.start import create
from sumgrad.jobs.runs.train_loop import run_training
from sumgrad.jobs.spec.loader import load_spec
from sumgrad.jobs.spec.paths import resolve_paths
from sumgrad.model.validation import Array


class LosingReducer(InlineReducer):
    """Loses its worker at the test rows, after `on_test`."""

    on_test: Callable[[], None]

    def reduce(self, task: Task, flat: Array) -> PartialSum:
        if task.source == "test":
            self.on_test()
            raise WorkerLost(0, str(task))
        return super().reduce(task, flat)


class TestingReducer(InlineReducer):
    """Refuses to train."""

    __test__ = False

    def reduce(self, task: Task, flat: Array) -> PartialSum:
        assert task.source == "test"
        return super().reduce(task, flat)


@pytest.mark.parametrize("signal", [None, StopReason.TERMINATED])
def test_a_run_that_cannot_be_tested_is_resumed_without_training(
    tmp_path: Path, signal: StopReason | None
) -> None:
    overrides = [f"output={tmp_path}", "stop.max_epochs=2", "checkpoint.every_seconds=null"]
    spec = resolve_paths(load_spec("digits", overrides).spec, tmp_path)
    job = build_job(spec, prepare(spec))
    tracker: Any = Mock(folder=tmp_path)
    stop: Any = SimpleNamespace(reason=None)
    reporter = PlainReporter(StringIO())
    with ExitStack() as locks:
        run = create(job, tracker, locks, {})
        with LosingReducer(job.workload) as reducer:
            reducer.on_test = lambda: setattr(stop, "reason", signal)
            result = run_training(run, reducer, reporter, stop)
        assert result.can_resume
        assert result.status == ("FAILED" if signal is None else "KILLED")
        assert isinstance(result.error, WorkerLost if signal is None else Interrupted)
        stop.reason = None
        resumed = replace(run, checkpoint=run.directory.checkpoints().newest())
        with TestingReducer(job.workload) as reducer:
            tested = run_training(resumed, reducer, reporter, stop)
    assert (tested.status, tested.training.epochs) == ("FINISHED", 2)
    assert tested.test is not None
    assert tested.training.W.tobytes() == result.training.W.tobytes()
