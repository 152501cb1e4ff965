"""Resumed runs: the same bits, the same run in MLflow, nothing missing and nothing twice."""

import contextlib
import shutil
import signal
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from sumgrad.jobs.artifacts.saved_model import load_model
from sumgrad.jobs.runs import signature
from sumgrad.jobs.runs.directory import all_runs
from tests.disks import fill, small_disk
from tests.integration import chaos
from tests.integration.command_line import Command, Finished, Folder
from tests.integration.conftest import make_folder

EPOCHS = 20
#: After these epochs a run pauses, with one checkpoint and with two.
FIRST_PAUSE, PAUSE = 2, 5
#: The training starts when MLflow has registered the run.
SPEC = (
    *(*chaos.SPEC, "--set", f"stop.max_epochs={EPOCHS}"),
    *("--set", "tracking.on_unavailable=fail"),
)


def curves(folder: Folder) -> Mapping[str, list[tuple[int, float]]]:
    """Return steps and values by curve of the folder's only run in MLflow, without speeds."""
    client, run = MlflowClient(folder.tracking_uri), folder.mlflow_run()
    return {
        key: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]
        for key in run.data.metrics
        if key != "samples_per_second"
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Folder:
    """A folder in which the long job finished without a fault."""
    folder = make_folder(tmp_path_factory.mktemp("undisturbed"), database)
    assert folder.sumgrad("train", "flowers.yaml", *SPEC).code == 0
    return folder


@pytest.fixture(scope="module")
def killed_run(tmp_path_factory: pytest.TempPathFactory, database: Path) -> tuple[Folder, Path]:
    """A folder whose driver was killed between two checkpoints, and a copy of it."""
    folder = make_folder(tmp_path_factory.mktemp("killed"), database)
    end(folder, signal.SIGKILL)
    copy = tmp_path_factory.mktemp("copies") / "killed"
    shutil.copytree(folder.path, copy)
    return folder, copy


@pytest.fixture
def killed(killed_run: tuple[Folder, Path]) -> Folder:
    """A folder with a killed run that the test may change; each test has it at the same path."""
    folder, copy = killed_run
    shutil.rmtree(folder.path / "runs")
    shutil.copytree(copy, folder.path, dirs_exist_ok=True, ignore=lambda *_: ["mlflow.db"])
    # In place, because this process may have the database open.
    with (
        contextlib.closing(sqlite3.connect(copy / "mlflow.db")) as source,
        contextlib.closing(sqlite3.connect(folder.path / "mlflow.db")) as target,
    ):
        source.backup(target)
    return folder


def check_same_as_undisturbed(folder: Folder, undisturbed: Folder) -> None:
    """Check that weights, curves and status are those of the run without a fault."""
    hashes = [
        load_model(f.run_directory().model).parameters.sha256() for f in (folder, undisturbed)
    ]
    assert hashes[0] == hashes[1]
    found = curves(folder)
    assert [step for step, _ in found["train_loss"]] == list(range(1, EPOCHS + 1))
    assert found == curves(undisturbed)
    run = folder.mlflow_run()
    assert run.info.status == "FINISHED"
    assert run.data.tags["sumgrad.stop_reason"] == "max_epochs"


def end(folder: Folder, number: signal.Signals) -> Finished:
    """Start the job, and send it a signal once it has some checkpoints."""
    process = start_and_pause(folder)
    process.send_signal(number)
    folder.release(PAUSE)
    out, err = process.communicate(timeout=60)
    return Finished(process.returncode, out, err)


def start_and_pause(folder: Folder, *arguments: str) -> Command:
    """Start the job, and wait until it has paused with two checkpoints."""
    pauses = FIRST_PAUSE, PAUSE
    process = folder.start("train", "flowers.yaml", *SPEC, *arguments, pauses=pauses)
    folder.wait_for_pause(process, FIRST_PAUSE)
    wait_for_checkpoints(folder.path / "runs", process, 1)
    # The writer is idle now, so that the next step has a checkpoint.
    folder.release(FIRST_PAUSE)
    folder.wait_for_pause(process, PAUSE)
    wait_for_checkpoints(folder.path / "runs", process, 2)
    return process


def wait_for_checkpoints(runs: Path, process: Command, number: int) -> None:
    """Wait until the run has a number of checkpoints and MLflow has the run."""
    deadline = time.monotonic() + 60
    while not any(
        run.mlflow_run_id is not None and len(run.checkpoints().paths()) >= number
        for run in all_runs(runs)
    ):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_terminated_run_is_resumed_with_more_workers_elsewhere(
    folder: Folder, undisturbed: Folder
) -> None:
    ended = end(folder, signal.SIGTERM)
    assert ended.code == 143, ended.err
    run_id = folder.run_directory().record.run_id
    assert folder.mlflow_run().info.status == "KILLED"
    assert f"sumgrad resume {run_id}" in ended.out
    listed = folder.sumgrad("runs").out
    assert "KILLED" in listed
    assert "terminated" in listed
    elsewhere = ("--set", "cluster.address=local", "--set", "cluster.workers=3")
    done = folder.sumgrad("resume", run_id[:-2], *elsewhere, "--json")
    assert done.code == 0, done.err
    assert "resuming after step" in done.err
    assert done.result["run_id"] == run_id
    # The run keeps its id: of the directory, of the record and in MLflow.
    (run,) = all_runs(folder.path / "runs")
    assert run.path.name == run.record.run_id == folder.mlflow_run().info.run_name == run_id
    assert done.result["epochs"] == EPOCHS
    check_same_as_undisturbed(folder, undisturbed)
    again = folder.sumgrad("resume", run_id[:-2])
    assert again.code == 2
    assert "has finished (max_epochs); there is nothing to resume" in again.error


def test_the_status_of_a_killed_run_is_corrected_before_it_is_resumed(
    folder: Folder, undisturbed: Folder
) -> None:
    assert end(folder, signal.SIGKILL).code == -signal.SIGKILL
    run_id = folder.run_directory().record.run_id
    assert folder.mlflow_run().info.status == "RUNNING"
    (row,) = folder.sumgrad("runs", "--json").results
    assert (row["run_id"], row["status"], row["can_resume"]) == (run_id, "KILLED", True)
    assert folder.mlflow_run().info.status == "KILLED"
    done = folder.sumgrad("resume", run_id)
    assert done.code == 0, done.err
    check_same_as_undisturbed(folder, undisturbed)


def test_a_damaged_checkpoint_is_reported_and_the_previous_one_used(
    killed: Folder, undisturbed: Folder
) -> None:
    run = killed.run_directory()
    newest, before, *_ = run.checkpoints().paths()
    arrays = newest / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-7])
    done = killed.sumgrad("resume", run.record.run_id, "--json")
    assert done.code == 0, done.err
    assert f"WARNING: {arrays} was altered" in done.err
    assert f"resuming after step {int(before.name[5:14]):,}" in done.err
    check_same_as_undisturbed(killed, undisturbed)


def test_a_changed_job_is_refused_with_every_difference(killed: Folder) -> None:
    run = killed.run_directory()
    newest = next(iter(run.checkpoints().paths()))
    kept = (newest / "state.json").read_bytes()
    for override, difference in {
        "optimizer.eta=0.1": "optimizer.eta was 0.01 and is 0.1",
        "cluster.microbatch_size=3": "microbatch_size.train was 4 and is 3",
        # A step has 4 rows, so that only evaluations have larger microbatches.
        "cluster.microbatch_size=20": "microbatch_size.validation was 10 and is 20",
        "model.layers[0].units=7": "model.layers.0.units was 800 and is 7",
    }.items():
        refused = killed.sumgrad("resume", run.record.run_id, "--set", override)
        assert refused.code == 2, refused.err
        assert difference in refused.error
    with (killed.path / "flowers.csv").open("a") as file:
        file.write("1.0,5.0,rose\n")
    refused = killed.sumgrad("resume", run.record.run_id)
    assert refused.code == 2, refused.err
    assert "data was " in refused.error
    assert killed.mlflow_run().info.status == "RUNNING", "a refused run is not touched"
    assert (newest / "state.json").read_bytes() == kept


def test_changed_code_is_refused_unless_allowed_and_then_recorded(
    killed: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, code = (
        killed.run_directory().record.run_id,
        killed.run_directory().record.signature["code"],
    )
    monkeypatch.setattr(signature, "_code_digest", lambda: "0ther")
    refused = killed.sumgrad("resume", run_id)
    assert refused.code == 2
    assert f"code was {code} and is 0ther" in refused.error
    assert "--allow-code-change" in refused.err
    done = killed.sumgrad("resume", run_id, "--allow-code-change")
    assert done.code == 0, done.err
    assert killed.run_directory().record.signature["earlier_code"] == [code]
    assert killed.mlflow_run().data.tags["sumgrad.earlier_code"] == code


def test_a_second_driver_of_a_run_is_refused(folder: Folder) -> None:
    process = start_and_pause(folder)
    run_id = folder.run_directory().record.run_id
    second = folder.sumgrad("resume", run_id)
    assert second.code == 2
    assert f"run {run_id} is locked by process {process.pid}" in second.error
    assert "RUNNING" in folder.sumgrad("runs").out
    assert process.poll() is None
    process.terminate()
    folder.release(PAUSE)
    process.communicate(timeout=60)
    assert process.returncode == 143


def test_a_second_signal_ends_at_once(folder: Folder) -> None:
    """The first signal would wait for the end of the step, which takes many seconds."""
    layer = "    - {units: 2500, activation: tanh}\n"
    spec = (folder.path / "flowers.yaml").read_text()
    (folder.path / "wide.yaml").write_text(spec.replace("  layers:\n", "  layers:\n" + 2 * layer))
    slow = {
        "optimizer.batch_size": "full",
        "cluster.microbatch_size": "1",
        "data.validation": "null",
        "data.test": "null",
        "checkpoint.every_steps": "1",
    }
    settings = (item for pair in slow.items() for item in ("--set", "=".join(pair)))
    process = folder.start("train", "wide.yaml", *settings, "--json")
    wait_for_checkpoints(folder.path / "runs", process, 1)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "stopping after this step" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    run = folder.run_directory()
    assert run.record.end is not None
    assert (run.status, run.record.end.stop_reason) == ("KILLED", "interrupted")
    assert not run.model.exists(), "a single signal has the weights saved"


def test_a_run_killed_as_soon_as_mlflow_has_it_is_resumed(
    folder: Folder, undisturbed: Folder
) -> None:
    process = folder.start("train", "flowers.yaml", *SPEC)
    deadline = time.monotonic() + 60
    with contextlib.closing(sqlite3.connect(folder.path / "mlflow.db", timeout=60)) as database:
        while not database.execute("select count(*) from runs").fetchone()[0]:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
    process.kill()
    process.communicate()
    (row,) = folder.sumgrad("runs", "--json").results
    assert row["status"] == "KILLED"
    assert folder.mlflow_run().info.status == "KILLED"
    done = folder.sumgrad("resume", row["run_id"])
    assert done.code == 0, done.err
    check_same_as_undisturbed(folder, undisturbed)


def test_a_run_without_its_example_rows_finishes(killed: Folder) -> None:
    run = killed.run_directory()
    (run.path / "example.json").unlink()
    done = killed.sumgrad("resume", run.record.run_id, "--json")
    assert done.code == 0, done.err
    assert done.result["status"] == "FINISHED"
    assert f"{(run.path / 'example.json')} is damaged" in done.err
    assert killed.mlflow_run().info.status == "FINISHED"


def test_another_blas_is_refused(killed: Folder) -> None:
    other = Folder(killed.path, {"OPENBLAS_CORETYPE": "Nehalem"})
    refused = other.run_installed("resume", killed.run_directory().record.run_id)
    assert refused.code == 2, refused.err
    assert "arithmetic.blas was " in refused.error
    assert "Nehalem" in refused.error


def test_a_driver_of_ray_workers_is_killed(folder: Folder, undisturbed: Folder) -> None:
    ray = ("--set", "cluster.address=local", "--set", "cluster.workers=2")
    process = start_and_pause(folder, *ray)
    workers = chaos.worker_pids(process.pid)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive their driver"
        time.sleep(0.1)
    done = folder.sumgrad("resume", folder.run_directory().record.run_id)
    assert done.code == 0, done.err
    check_same_as_undisturbed(folder, undisturbed)


def is_alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_full_disk_at_the_end_is_reported_to_mlflow(folder: Folder, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2048) as disk:
        output = ("--set", f"output={disk / 'runs'}")
        # No checkpoint is being written during the pause: a failed one would leave space.
        rare = ("--set", "checkpoint.every_steps=81")
        process = folder.start("train", "flowers.yaml", *SPEC, *rare, *output, pauses=[PAUSE])
        folder.wait_for_pause(process, PAUSE)
        wait_for_checkpoints(disk / "runs", process, 1)
        filling = fill(disk)
        folder.release(PAUSE)
        out, err = process.communicate(timeout=120)
        done = Finished(process.returncode, out, err)
        assert done.code == 1, done.err
        assert "No space left on device" in done.error
        assert folder.mlflow_run().info.status == "FAILED"
        filling.unlink()
        (run,) = all_runs(disk / "runs")
        resumed = folder.sumgrad("resume", str(run.path), *output)
        assert resumed.code == 0, resumed.err
        assert folder.mlflow_run().info.status == "FINISHED"


@pytest.mark.parametrize("run", ["abcdef0123", "../..", "runs", "/etc"])
def test_an_unknown_run_is_refused(folder: Folder, run: str) -> None:
    done = folder.sumgrad("resume", run)
    assert done.code == 2
    assert "no run" in done.error


def test_kills_at_random_moments(
    folder: Folder, tmp_path_factory: pytest.TempPathFactory, database: Path
) -> None:
    """The small form of ``python -m tests.integration.chaos``."""
    epochs = 400
    spec = (*SPEC, "--set", f"stop.max_epochs={epochs}", "--set", "optimizer.batch_size=8")
    killed = chaos.run_with_kills(folder, 2, seed=7, spec=spec)
    assert killed.checkpoints
    assert killed.epochs == list(range(1, epochs + 1))
    other = make_folder(tmp_path_factory.mktemp("other"), database)
    undisturbed = other.sumgrad("train", "flowers.yaml", *spec, "--json")
    assert undisturbed.result["weights_sha256"] == killed.weights_sha256


def test_a_run_that_mlflow_has_lost_is_refused_before_a_step(folder: Folder) -> None:
    assert end(folder, signal.SIGTERM).code == 143
    run = folder.run_directory()
    (folder.path / "mlflow.db").unlink()
    refused = folder.sumgrad("resume", run.record.run_id)
    assert refused.code == 3, refused.err
    assert f"run {run.record.run_id} is not in MLflow any more" in refused.error
    assert "epoch " not in refused.out
    assert f"remove {run.path / 'delivery.json'}" in refused.err
    after = folder.run_directory()
    assert after.record.end == run.record.end, "a refused resume leaves the run unchanged"


def test_damaged_runs_are_named(killed: Folder) -> None:
    run = killed.run_directory()
    (run.path / "run.json").write_text("")
    listed = killed.sumgrad("runs")
    assert f"{run.path} is left out: its run.json is missing or damaged" in listed.err


def test_sync_leaves_out_running_runs(folder: Folder) -> None:
    process = start_and_pause(folder)
    done = folder.sumgrad("sync")
    assert done.code == 0
    assert "is left out: it is running" in done.out
    process.kill()
    process.communicate()
