"""The tracking server is away: the run does not mind, and later MLflow has everything once."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from mlflow import MlflowClient

from sumgrad.jobs.runs.directory import all_runs
from tests.integration import chaos
from tests.integration.command_line import Finished, Folder
from tests.integration.gate import Gate, State, mlflow_server

EPOCHS = 300
_BATCH = "runs/log-batch"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as port:
        yield port


@pytest.fixture
def gate(server: int) -> Iterator[Gate]:
    made = Gate(server)
    yield made
    made.turn("down")


class Job:
    """Some seconds of training, tracked through a gate, in an experiment of its own."""

    def __init__(self, folder: Folder, gate: Gate, experiment: str) -> None:
        self.folder = folder
        self._behind = f"http://127.0.0.1:{gate.behind}"
        self._experiment = experiment
        arguments = (
            *("train", "flowers.yaml", *chaos.SPEC, "--set", f"stop.max_epochs={EPOCHS}"),
            *("--set", f"tracking.uri={gate.uri}", "--set", f"tracking.experiment={experiment}"),
        )
        self._process = folder.start(*arguments, "--json")
        self._heard = ""

    def wait_to_hear(self, words: str) -> None:
        """Wait until it says something on stderr."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._heard += line
            if words in line:
                return
        raise AssertionError(self._heard)

    def finished(self) -> Finished:
        """Its end."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        # Its stdout is a single line, which nobody has to read early.
        err = self._heard + self._process.stderr.read()
        return Finished(self._process.wait(120), self._process.stdout.read(), err)

    def close(self) -> None:
        """Leave no process."""
        self._process.kill()
        self._process.communicate()

    def expect_everything_once(self) -> None:
        """MLflow has one run: every epoch of every curve, the model and the status."""
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

    def expect_nothing_left(self) -> None:
        """A further `sync` has nothing to say."""
        done = self.folder.sumgrad("sync")
        assert (done.code, done.out) == (0, "MLflow knows everything\n")


Start = Callable[[str], Job]


@pytest.fixture
def start(folder: Folder, gate: Gate) -> Iterator[Start]:
    """Starts the job, tracked in an experiment."""
    with ExitStack() as jobs:

        def started(experiment: str) -> Job:
            return jobs.enter_context(closing(Job(folder, gate, experiment)))

        yield started


@pytest.mark.parametrize("state", ["down", "hangs", "fails", "forbids", "asks"])
def test_a_server_that_goes_away_and_comes_back(start: Start, gate: Gate, state: State) -> None:
    gate.turn("open")
    job = start(f"comes-back-{state}")
    gate.wait_for(_BATCH, "open", 2)
    gate.turn(state)
    if state == "hangs":
        gate.wait_for(_BATCH, state)
    else:
        job.wait_to_hear("metrics cannot be delivered, trying again")
    gate.turn("open")
    finished = job.finished()
    assert finished.code == 0, finished.err
    job.expect_everything_once()
    job.expect_nothing_left()


def test_a_server_that_stays_away_is_told_later(folder: Folder, start: Start, gate: Gate) -> None:
    gate.turn("open")
    job = start("stays-away")
    gate.wait_for(_BATCH, "open")
    gate.turn("hangs")
    finished = job.finished()
    assert finished.code == 0, finished.err
    assert finished.result["status"] == "FINISHED"
    assert "sumgrad sync" in finished.err
    gate.turn("down")
    early = folder.sumgrad("sync")
    assert early.code == 3
    assert "NOT delivered" in early.out
    gate.turn("open")
    late = folder.sumgrad("sync")
    assert late.code == 0, late.out
    job.expect_everything_once()
    job.expect_nothing_left()


@pytest.mark.parametrize("request_", ["runs/get", "runs/set-tag"])
def test_a_server_that_hangs_at_the_end_costs_ten_seconds(
    folder: Folder, start: Start, gate: Gate, request_: str
) -> None:
    gate.turn("open")
    job = start(f"hangs-at-{request_.rpartition('/')[2]}")
    # The first one goes with the making of the run, which asks for it as well.
    gate.wait_for(_BATCH, "open", 2)
    gate.turn_at(request_, "hangs")
    gate.wait_for(request_, "hangs")
    began = time.monotonic()
    finished = job.finished()
    # Ten seconds, and what an end without a server takes.
    assert time.monotonic() - began < 10 + 4
    assert finished.code == 0, finished.err
    assert "no answer in 10 s" in finished.err
    assert "sumgrad sync" in finished.err
    gate.turn("open")
    late = folder.sumgrad("sync")
    assert late.code == 0, late.out
    job.expect_everything_once()
    job.expect_nothing_left()


def test_a_server_that_comes_after_the_run_has_begun(start: Start, gate: Gate) -> None:
    job = start("comes-late")
    job.wait_to_hear("training goes on, and everything is kept for it")
    gate.turn("open")
    finished = job.finished()
    assert finished.code == 0, finished.err
    job.expect_everything_once()


def test_a_server_that_is_never_there(folder: Folder, start: Start, gate: Gate) -> None:
    job = start("never-there")
    finished = job.finished()
    assert finished.code == 0, finished.err
    run_id = finished.result["run_id"]
    assert (folder.path / "runs" / run_id / "model").is_dir()
    gate.turn("open")
    assert folder.sumgrad("sync", run_id).code == 0
    job.expect_everything_once()


def test_who_wants_a_server_gets_none_without(folder: Folder, gate: Gate) -> None:
    done = folder.sumgrad(
        *("train", "flowers.yaml", "--set", f"tracking.uri={gate.uri}"),
        *("--set", "tracking.on_unavailable=fail"),
    )
    assert done.code == 3
    assert gate.uri in done.err
    assert not list((folder.path / "runs").glob("*"))


def test_checkpoints_do_not_wait_for_mlflow(folder: Folder, start: Start, gate: Gate) -> None:
    gate.turn("open")
    # Its first question is whether the experiment is there; the server is healthy, and hangs then.
    gate.turn_at("experiments/search", "hangs")
    job = start("checkpoints")
    gate.wait_for("experiments/search", "hangs")
    give_up = time.monotonic() + 60
    while not list(folder.path.glob("runs/*/checkpoints/step-*/state.json")):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    (waiting,) = all_runs(folder.path / "runs")
    assert waiting.mlflow_run_id is None
    gate.turn("open")
    assert job.finished().code == 0
    (run,) = all_runs(folder.path / "runs")
    assert run.mlflow_run_id is not None
    assert run.checkpoints().paths()
    job.expect_everything_once()
