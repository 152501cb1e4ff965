"""Resumed runs: the same bits, the same run in MLflow, nothing missing and nothing twice."""

import contextlib
import signal
import sqlite3
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from mlflow import MlflowClient

from sumgrad.jobs.artifacts.saved_model import load_model
from sumgrad.jobs.runs import signature
from sumgrad.jobs.runs.directory import RunDirectory, all_runs
from tests.disks import fill, small_disk
from tests.integration import chaos
from tests.integration.command_line import Finished, Folder
from tests.integration.conftest import make_folder
from tests.integration.test_endings import one_line, only_run

EPOCHS = 1000
#: Some seconds longer than MLflow takes to answer, with checkpoints all the way from there.
LONG = (*chaos.SPEC, "--set", f"stop.max_epochs={EPOCHS}")


def curves(folder: Folder) -> Mapping[str, list[tuple[int, float]]]:
    """What MLflow has of the folder's only run: steps and values by curve, but for speeds."""
    client, run = MlflowClient(folder.tracking_uri), only_run(folder)
    return {
        key: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]
        for key in run.data.metrics
        if key != "samples_per_second"
    }


def run_of(folder: Folder) -> RunDirectory:
    (run,) = all_runs(folder.path / "runs")
    return run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Folder:
    """A folder in which the long job came to its end without an incident."""
    folder = make_folder(tmp_path_factory.mktemp("undisturbed"), database)
    assert folder.sumgrad("train", "flowers.yaml", *LONG).code == 0
    return folder


def expect_as_undisturbed(folder: Folder, undisturbed: Folder) -> None:
    """Weights, curves and status are those of a run in which nothing happened."""
    hashes = [load_model(run_of(f).model).parameters.sha256() for f in (folder, undisturbed)]
    assert hashes[0] == hashes[1]
    found = curves(folder)
    assert [step for step, _ in found["train_loss"]] == list(range(1, EPOCHS + 1))
    assert found == curves(undisturbed)
    run = only_run(folder)
    assert run.info.status == "FINISHED"
    assert run.data.tags["sumgrad.stop_reason"] == "max_epochs"


def end(folder: Folder, number: signal.Signals) -> Finished:
    """Start the long job, and send it a signal once it has some checkpoints."""
    process = folder.start("train", "flowers.yaml", *LONG)
    wait_for_checkpoints(folder, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return Finished(process.returncode, out, err)


def wait_for_checkpoints(folder: Folder, process: "subprocess.Popen[str]") -> None:
    """Wait until there are two, and MLflow has the run, which may come later."""
    deadline = time.monotonic() + 60
    while not any(
        run.mlflow_run_id is not None and len(run.checkpoints().paths()) > 1
        for run in all_runs(folder.path / "runs")
    ):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_terminated_run_is_resumed_with_more_workers_elsewhere(
    folder: Folder, undisturbed: Folder
) -> None:
    ended = end(folder, signal.SIGTERM)
    assert ended.code == 143, ended.err
    run_id = run_of(folder).record.run_id
    assert only_run(folder).info.status == "KILLED"
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
    assert run.path.name == run.record.run_id == only_run(folder).info.run_name == run_id
    assert done.result["epochs"] == EPOCHS
    expect_as_undisturbed(folder, undisturbed)
    again = folder.sumgrad("resume", run_id[:-2])
    assert again.code == 2
    assert "has finished (max_epochs); there is nothing to resume" in one_line(again)


def test_the_status_of_a_killed_run_is_corrected_before_it_is_resumed(
    folder: Folder, undisturbed: Folder
) -> None:
    assert end(folder, signal.SIGKILL).code == -signal.SIGKILL
    run_id = run_of(folder).record.run_id
    assert only_run(folder).info.status == "RUNNING"
    (row,) = folder.sumgrad("runs", "--json").results
    assert (row["run_id"], row["status"], row["can_resume"]) == (run_id, "KILLED", True)
    assert only_run(folder).info.status == "KILLED"
    done = folder.sumgrad("resume", run_id)
    assert done.code == 0, done.err
    expect_as_undisturbed(folder, undisturbed)


def test_a_damaged_checkpoint_is_reported_and_the_previous_one_used(
    folder: Folder, undisturbed: Folder
) -> None:
    end(folder, signal.SIGKILL)
    run = run_of(folder)
    newest, before, *_ = run.checkpoints().paths()
    arrays = newest / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-7])
    done = folder.sumgrad("resume", run.record.run_id, "--json")
    assert done.code == 0, done.err
    assert f"WARNING: {arrays} was altered" in done.err
    assert f"resuming after step {int(before.name[5:14]):,}" in done.err
    expect_as_undisturbed(folder, undisturbed)


def test_a_changed_job_is_refused_with_every_difference(folder: Folder) -> None:
    end(folder, signal.SIGKILL)
    run = run_of(folder)
    newest = next(iter(run.checkpoints().paths()))
    kept = (newest / "state.json").read_bytes()
    for override, difference in {
        "optimizer.eta=0.1": "optimizer.eta was 0.01 and is 0.1",
        "cluster.microbatch_size=3": "microbatch_size.train was 4 and is 3",
        # A step has 4 rows, so that only evaluations have larger microbatches.
        "cluster.microbatch_size=20": "microbatch_size.validation was 10 and is 20",
        "model.layers[0].units=7": "model.layers.0.units was 800 and is 7",
    }.items():
        refused = folder.sumgrad("resume", run.record.run_id, "--set", override)
        assert refused.code == 2, refused.err
        assert difference in one_line(refused)
    with (folder.path / "flowers.csv").open("a") as file:
        file.write("1.0,5.0,rose\n")
    refused = folder.sumgrad("resume", run.record.run_id)
    assert refused.code == 2, refused.err
    assert "data was " in one_line(refused)
    assert only_run(folder).info.status == "RUNNING", "a refused run is not touched"
    assert (newest / "state.json").read_bytes() == kept


def test_changed_code_is_refused_unless_allowed_and_then_recorded(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(folder, signal.SIGTERM)
    run_id, code = run_of(folder).record.run_id, run_of(folder).record.signature["code"]
    monkeypatch.setattr(signature, "_code_digest", lambda: "0ther")
    refused = folder.sumgrad("resume", run_id)
    assert refused.code == 2
    assert f"code was {code} and is 0ther" in one_line(refused)
    assert "--allow-code-change" in refused.err
    done = folder.sumgrad("resume", run_id, "--allow-code-change")
    assert done.code == 0, done.err
    assert run_of(folder).record.signature["earlier_code"] == [code]
    assert only_run(folder).data.tags["sumgrad.earlier_code"] == code


def test_a_second_driver_of_a_run_is_refused(folder: Folder) -> None:
    process = folder.start("train", "flowers.yaml", *LONG, "--set", "stop.max_epochs=1000000")
    wait_for_checkpoints(folder, process)
    run_id = run_of(folder).record.run_id
    second = folder.sumgrad("resume", run_id)
    assert second.code == 2
    assert f"run {run_id} is locked by process {process.pid}" in one_line(second)
    assert "RUNNING" in folder.sumgrad("runs").out
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143


def test_a_second_signal_ends_at_once(folder: Folder) -> None:
    """In the middle of a step of many seconds, whose end the first signal would wait for."""
    slow = (
        *("--set", "model.layers[0].units=2500", "--set", "optimizer.batch_size=full"),
        *(
            "--set",
            'model.layers[0].activation={"name": "tanh"}',
            "--set",
            "cluster.microbatch_size=1",
        ),
        *("--set", "data.validation=null", "--set", "data.test=null"),
        *("--set", "stop.max_epochs=10000"),
    )
    wide = folder.path / "wide.yaml"
    layer = "    - {units: 2500, activation: tanh}\n"
    spec = (folder.path / "flowers.yaml").read_text()
    wide.write_text(spec.replace("  layers:\n", "  layers:\n" + layer))
    process = folder.start("train", str(wide), *slow, "--json")
    assert process.stderr is not None
    while "training rows" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    run = run_of(folder)
    assert run.record.end is not None
    assert (run.status, run.record.end.stop_reason) == ("KILLED", "interrupted")
    assert not run.model.exists(), "a single signal has the weights saved"


def test_a_run_killed_as_soon_as_mlflow_has_it_is_resumed(
    folder: Folder, undisturbed: Folder
) -> None:
    process = folder.start("train", "flowers.yaml", *LONG)
    deadline = time.monotonic() + 60
    with contextlib.closing(sqlite3.connect(folder.path / "mlflow.db", timeout=60)) as database:
        while not database.execute("select count(*) from runs").fetchone()[0]:
            assert process.poll() is None
            assert time.monotonic() < deadline
    process.kill()
    process.communicate()
    (row,) = folder.sumgrad("runs", "--json").results
    assert row["status"] == "KILLED"
    assert only_run(folder).info.status == "KILLED"
    done = folder.sumgrad("resume", row["run_id"])
    assert done.code == 0, done.err
    expect_as_undisturbed(folder, undisturbed)


def test_a_run_without_its_example_rows_finishes(folder: Folder) -> None:
    end(folder, signal.SIGKILL)
    run = run_of(folder)
    (run.path / "example.json").unlink()
    done = folder.sumgrad("resume", run.record.run_id, "--json")
    assert done.code == 0, done.err
    assert done.result["status"] == "FINISHED"
    assert f"{(run.path / 'example.json')} is damaged" in done.err
    assert only_run(folder).info.status == "FINISHED"


def test_another_blas_is_refused(folder: Folder) -> None:
    end(folder, signal.SIGKILL)
    other = Folder(folder.path, {"OPENBLAS_CORETYPE": "Nehalem"})
    refused = other.run_process("resume", run_of(folder).record.run_id)
    assert refused.code == 2, refused.err
    assert "arithmetic.blas was " in one_line(refused)
    assert "Nehalem" in one_line(refused)


def test_a_driver_of_ray_workers_is_killed(folder: Folder, undisturbed: Folder) -> None:
    ray = ("--set", "cluster.address=local", "--set", "cluster.workers=2")
    process = folder.start("train", "flowers.yaml", *LONG, *ray)
    wait_for_checkpoints(folder, process)
    workers = chaos.serving(process.pid)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while any(is_there(pid) for pid in workers):
        assert time.monotonic() < deadline, "they outlive their driver"
        time.sleep(0.1)
    done = folder.sumgrad("resume", run_of(folder).record.run_id)
    assert done.code == 0, done.err
    expect_as_undisturbed(folder, undisturbed)


def is_there(pid: int) -> bool:
    """Whether a process is more than an entry that nobody has asked for."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_full_disk_at_the_end_is_reported_to_mlflow(folder: Folder, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2048) as disk:
        output = ("--set", f"output={disk / 'runs'}")
        process = folder.start("train", "flowers.yaml", *LONG, *output)
        deadline = time.monotonic() + 60
        while len(list(disk.glob("runs/*/checkpoints/step-*/state.json"))) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        filling = fill(disk)
        out, err = process.communicate(timeout=120)
        done = Finished(process.returncode, out, err)
        assert done.code == 1, done.err
        assert "No space left on device" in one_line(done)
        assert only_run(folder).info.status == "FAILED"
        filling.unlink()
        (run,) = all_runs(disk / "runs")
        resumed = folder.sumgrad("resume", str(run.path), *output)
        assert resumed.code == 0, resumed.err
        assert only_run(folder).info.status == "FINISHED"


@pytest.mark.parametrize("run", ["abcdef0123", "../..", "runs", "/etc"])
def test_an_unknown_run_is_refused(folder: Folder, run: str) -> None:
    done = folder.sumgrad("resume", run)
    assert done.code == 2
    assert "no run" in one_line(done)


def test_kills_at_random_moments(folder: Folder, undisturbed: Folder) -> None:
    """The small form of ``python -m tests.integration.chaos``."""
    survived = chaos.run_with_kills(folder, 3, seed=7, spec=LONG)
    assert len(survived.moments) == 3
    assert survived.epochs == list(range(1, EPOCHS + 1))
    expect_as_undisturbed(folder, undisturbed)


def test_strikes_at_ray_workers(folder: Folder, undisturbed: Folder) -> None:
    """Killed and frozen while they compute, as real processes of a real job."""
    survived, struck = chaos.run_with_strikes(folder, 8, seed=3, spec=LONG)
    assert struck >= 3
    assert survived.epochs == list(range(1, EPOCHS + 1))
    expect_as_undisturbed(folder, undisturbed)


def test_a_run_that_mlflow_has_lost_is_refused_before_a_step(folder: Folder) -> None:
    assert end(folder, signal.SIGTERM).code == 143
    run = run_of(folder)
    (folder.path / "mlflow.db").unlink()
    refused = folder.sumgrad("resume", run.record.run_id)
    assert refused.code == 3, refused.err
    assert run.record.run_id in one_line(refused)
    assert "epoch " not in refused.out
    after = run_of(folder)
    assert after.record.end == run.record.end, "it is what it was"


def test_damaged_runs_are_named(folder: Folder) -> None:
    end(folder, signal.SIGTERM)
    run = run_of(folder)
    (run.path / "run.json").write_text("")
    listed = folder.sumgrad("runs")
    assert f"{run.path} is left out: its run.json is missing or damaged" in listed.err


def test_sync_leaves_out_running_runs(folder: Folder) -> None:
    process = folder.start("train", "flowers.yaml", *LONG, "--set", "stop.max_epochs=1000000")
    wait_for_checkpoints(folder, process)
    done = folder.sumgrad("sync")
    assert done.code == 0
    assert "is left out: it is running" in done.out
    process.terminate()
    process.communicate(timeout=60)
