"""Outages of the tracking server: no run fails, and later MLflow has everything once."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sumgrad.jobs.runs.directory import all_runs
from tests.integration.command_line import Finished, Folder
from tests.integration.mlflow_proxy import MlflowProxy, State, mlflow_server

EPOCHS = 12
#: After this epoch a job pauses.
PAUSE = 4
_BATCH = "runs/log-batch"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(database, folder / "mlflow.db")
    with mlflow_server(folder) as port:
        yield port


@pytest.fixture
def proxy(server: int) -> Iterator[MlflowProxy]:
    made = MlflowProxy(server)
    yield made
    made.set_state("down")


class Job:
    """A run that is tracked through a proxy, in a new experiment."""

    def __init__(
        self, folder: Folder, proxy: MlflowProxy, experiment: str, pauses: Sequence[int]
    ) -> None:
        self.folder = folder
        self._behind = f"http://127.0.0.1:{proxy.behind}"
        self._experiment = experiment
        arguments = (
            *("train", "flowers.yaml", "--set", f"stop.max_epochs={EPOCHS}"),
            *("--set", "checkpoint.every_steps=1", "--set", "optimizer.name=adam"),
            *("--set", f"tracking.uri={proxy.uri}", "--set", f"tracking.experiment={experiment}"),
        )
        self.process = folder.start(*arguments, "--json", pauses=pauses)
        self._err = ""

    def wait_for_line(self, words: str) -> None:
        """Wait until stderr has a line with these words."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._err += line
            if words in line:
                return
        raise AssertionError(self._err)

    def finished(self) -> Finished:
        """Wait for its end."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        err = self._err + self.process.stderr.read()
        return Finished(self.process.wait(120), self.process.stdout.read(), err)

    def close(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.communicate()

    def check_everything_once(self) -> None:
        """Check that MLflow has one run with all metrics, the model and the status."""
        client = MlflowClient(self._behind)
        experiment = client.get_experiment_by_name(self._experiment)
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.info.status == "FINISHED"
        assert run.data.tags["sumgrad.stop_reason"] == "max_epochs"
        for curve in ("train_loss", "validation_loss", "learning_rate"):
            history = client.get_metric_history(run.info.run_id, curve)
            assert [metric.step for metric in history] == list(range(1, EPOCHS + 1))
        assert len(client.get_metric_history(run.info.run_id, "test_loss")) == 1
        assert run.data.params["optimizer.name"] == "adam"
        assert run.outputs is not None
        assert len(run.outputs.model_outputs) == 1
        (row,) = self.folder.sumgrad("runs", "--json").results
        assert row["is_delivered"]
        assert row["mlflow_run_id"] == run.info.run_id
        assert row["run_id"] == run.info.run_name

    def check_nothing_left(self) -> None:
        """Check that another `sync` has nothing to deliver."""
        done = self.folder.sumgrad("sync")
        assert (done.code, done.out) == (0, "MLflow has everything\n")


#: Takes the experiment and the epochs after which the job pauses.
Start = Callable[..., Job]


@pytest.fixture
def start(folder: Folder, proxy: MlflowProxy) -> Iterator[Start]:
    """Starts the job, tracked in an experiment."""
    with ExitStack() as jobs:

        def started(experiment: str, pauses: Sequence[int] = (PAUSE,)) -> Job:
            return jobs.enter_context(closing(Job(folder, proxy, experiment, pauses)))

        yield started


def test_a_server_that_goes_away_and_comes_back(
    folder: Folder, start: Start, proxy: MlflowProxy
) -> None:
    states: Sequence[State] = ("down", "fails", "forbids", "unauthorized", "hangs")
    pauses = range(1, EPOCHS, 2)
    proxy.set_state("open")
    job = start("comes-back", pauses)
    # The first batch is part of the creation of the run.
    proxy.wait_for(_BATCH, "open", 2)
    for state, pause in zip(states, pauses, strict=False):
        folder.wait_for_pause(job.process, pause)
        proxy.set_state(state)
        folder.release(pause)
        if state == "hangs":
            proxy.wait_for(_BATCH, state)
            proxy.set_state("open")
        else:
            job.wait_for_line("metrics cannot be delivered, trying again")
            proxy.set_state("open")
            job.wait_for_line("metrics are delivered again")
    folder.release(pauses[-1])
    finished = job.finished()
    assert finished.code == 0, finished.err
    job.check_everything_once()
    job.check_nothing_left()


def test_a_run_whose_server_stays_away_is_delivered_by_sync(
    folder: Folder, start: Start, proxy: MlflowProxy
) -> None:
    proxy.set_state("open")
    job = start("stays-away")
    proxy.wait_for(_BATCH, "open")
    proxy.set_state("hangs")
    folder.release(PAUSE)
    finished = job.finished()
    assert finished.code == 0, finished.err
    assert finished.result["status"] == "FINISHED"
    assert "sumgrad sync" in finished.err
    proxy.set_state("down")
    early = folder.sumgrad("sync")
    assert early.code == 3
    assert "NOT delivered" in early.out
    proxy.set_state("open")
    late = folder.sumgrad("sync")
    assert late.code == 0, late.out
    job.check_everything_once()
    job.check_nothing_left()


@pytest.mark.parametrize("request_", ["runs/get", "runs/set-tag"])
def test_a_server_that_hangs_at_the_end_costs_ten_seconds(
    folder: Folder, start: Start, proxy: MlflowProxy, request_: str
) -> None:
    proxy.set_state("open")
    job = start(f"hangs-at-{request_.rpartition('/')[2]}")
    # The first batch is part of the creation of the run, which asks for the run as well.
    proxy.wait_for(_BATCH, "open", 2)
    proxy.set_state_at(request_, "hangs")
    folder.release(PAUSE)
    proxy.wait_for(request_, "hangs")
    began = time.monotonic()
    finished = job.finished()
    # Ten seconds, and what the rest takes on a busy machine. The server never answers.
    assert time.monotonic() - began < 10 + 30
    assert finished.code == 0, finished.err
    assert "has not accepted the rest in 10 s" in finished.err
    assert "sumgrad sync" in finished.err
    proxy.set_state("open")
    late = folder.sumgrad("sync")
    assert late.code == 0, late.out
    job.check_everything_once()
    job.check_nothing_left()


def test_a_server_that_starts_after_the_run(
    folder: Folder, start: Start, proxy: MlflowProxy
) -> None:
    job = start("comes-late")
    job.wait_for_line("training continues, and everything is kept for MLflow")
    proxy.set_state("open")
    folder.release(PAUSE)
    finished = job.finished()
    assert finished.code == 0, finished.err
    job.check_everything_once()


def test_a_run_that_needs_a_server_does_not_start_without(
    folder: Folder, proxy: MlflowProxy
) -> None:
    done = folder.sumgrad(
        *("train", "flowers.yaml", "--set", f"tracking.uri={proxy.uri}"),
        *("--set", "tracking.on_unavailable=fail"),
    )
    assert done.code == 3
    assert proxy.uri in done.err
    assert not list((folder.path / "runs").glob("*"))


def test_checkpoints_do_not_wait_for_mlflow(
    folder: Folder, start: Start, proxy: MlflowProxy
) -> None:
    proxy.set_state("open")
    # The server is healthy, and hangs at MLflow's first request.
    proxy.set_state_at("experiments/search", "hangs")
    job = start("checkpoints")
    proxy.wait_for("experiments/search", "hangs")
    give_up = time.monotonic() + 60
    while not list(folder.path.glob("runs/*/checkpoints/step-*/state.json")):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    (waiting,) = all_runs(folder.path / "runs")
    assert waiting.mlflow_run_id is None
    proxy.set_state("open")
    folder.release(PAUSE)
    assert job.finished().code == 0
    (run,) = all_runs(folder.path / "runs")
    assert run.mlflow_run_id is not None
    assert run.checkpoints().paths()
    job.check_everything_once()
