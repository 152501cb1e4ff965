"""Kill and resume a run at random moments; kill and freeze its workers.

``python -m tests.integration.chaos --kills 100`` is the long form; `make test` runs a short one.
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from sumgrad.jobs.artifacts.saved_model import load_model
from sumgrad.jobs.runs.directory import RunDirectory, all_runs
from sumgrad.jobs.tracking.store import open_store
from tests.integration.command_line import Command, Folder
from tests.integration.conftest import make_folder

EPOCHS = 1200
#: A run of several seconds that writes checkpoints without a pause.
SPEC = (
    *("--set", f"stop.max_epochs={EPOCHS}", "--set", "checkpoint.every_steps=1"),
    *("--set", "optimizer.batch_size=4", "--set", "model.layers[0].units=800"),
    *("--set", "optimizer.name=adam", "--set", "optimizer.eta=0.01"),
)
#: Seconds to the kill of a driver, from its start or from its first checkpoint.
KILL_AFTER_S = (0.0, 2.0)
#: One kill in this number is counted from the start; the others from the first checkpoint.
_KILL_START_EVERY = 4
WITH_RAY = ("--set", "cluster.address=local", "--set", "cluster.workers=3")
#: Seconds between two faults of workers.
FAULT_INTERVAL_S = (0.1, 1.5)
#: One fault in this number freezes the worker; the others kill it.
_FREEZE_EVERY = 5


@dataclass(frozen=True)
class FinishedRun:
    """A run that finished although its driver or its workers were killed."""

    run: RunDirectory
    #: The newest checkpoint at each kill of the driver.
    checkpoints: Sequence[str] = ()

    @property
    def weights_sha256(self) -> str:
        """The hash of the saved model's weights."""
        return load_model(self.run.model).parameters.sha256()

    @property
    def epochs(self) -> Sequence[int]:
        """The epochs of the loss curve in MLflow."""
        store = open_store(self.run.record.tracking_uri)
        run_id = self.run.mlflow_run_id
        assert run_id is not None
        history = store.client.get_metric_history(run_id, "train_loss")
        return [metric.step for metric in history]


def newest_step(folder: Folder) -> str:
    """Return the name of the newest checkpoint of the folder's only run."""
    names = sorted(path.name for path in folder.path.glob("runs/*/checkpoints/step-*"))
    return names[-1] if names else "none"


def wait_for_a_checkpoint(folder: Folder, newest: str, process: Command) -> None:
    """Wait until the run has a newer checkpoint, or has ended."""
    while newest_step(folder) == newest and process.poll() is None:
        time.sleep(0.02)


def run_with_kills(
    folder: Folder,
    kills: int,
    seed: int,
    spec: Sequence[str] = SPEC,
) -> FinishedRun:
    """Train in a folder; kill the driver up to `kills` times at moments that the seed decides."""
    generator = random.Random(seed)
    checkpoints: list[str] = []
    arguments: tuple[str, ...] = ("train", "flowers.yaml", *spec)
    while len(checkpoints) < kills:
        before = newest_step(folder)
        process = folder.start(*arguments, "--json")
        if generator.randrange(_KILL_START_EVERY):
            wait_for_a_checkpoint(folder, before, process)
        time.sleep(generator.uniform(*KILL_AFTER_S))
        process.send_signal(signal.SIGKILL)
        _, err = process.communicate()
        if process.returncode == 0:
            break
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError(err)
        checkpoints.append(newest_step(folder))
        runs = all_runs(folder.path / "runs")
        if runs:
            (run,) = runs
            if run.record.end is not None:
                # The kill came between the end of the run and the exit of the process.
                break
            arguments = ("resume", run.record.run_id)
    else:
        done = folder.sumgrad(*arguments, "--json")
        if done.code:
            raise RuntimeError(done.err)
    (run,) = all_runs(folder.path / "runs")
    return FinishedRun(run, checkpoints)


def run_with_worker_faults(
    folder: Folder, faults: int, seed: int, spec: Sequence[str]
) -> tuple[FinishedRun, int]:
    """Train with Ray workers and kill or freeze one to three of them at a time.

    Returns:
        The finished run, and the number of faults until then.
    """
    generator = random.Random(seed)
    count = 0
    process = folder.start("train", "flowers.yaml", *spec, *WITH_RAY, "--json")
    while not has_finished_an_epoch(folder) and process.poll() is None:
        # sumgrad ends a job whose first workers all fail.
        time.sleep(0.05)
    while count < faults and process.poll() is None:
        # A microbatch during which three workers fail ends the run, so each fault waits for a step.
        wait_for_a_checkpoint(folder, newest_step(folder), process)
        time.sleep(generator.uniform(*FAULT_INTERVAL_S))
        workers = worker_pids(process.pid)
        for pid in generator.sample(workers, min(len(workers), generator.randint(1, 3))):
            freezes = count % _FREEZE_EVERY == _FREEZE_EVERY - 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP if freezes else signal.SIGKILL)
                count += 1
    _, err = process.communicate()
    if process.returncode:
        raise RuntimeError(err)
    (run,) = all_runs(folder.path / "runs")
    return FinishedRun(run), count


def has_finished_an_epoch(folder: Folder) -> bool:
    """Whether the run has recorded the metrics of an epoch."""
    return any(file.stat().st_size for file in folder.path.glob("runs/*/metrics.jsonl"))


def worker_pids(driver: int) -> list[int]:
    """Return the process ids of a driver's Ray workers."""
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(driver).children(recursive=True)
        # Ray names a worker's process after its class; Linux cuts names at 15 characters.
        return [child.pid for child in children if "WorkerProc" in child.name()]
    return []


def main() -> None:
    """Kill and resume runs, and compare their weights and curves with an undisturbed run's."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=100, help="kills of drivers without Ray")
    parser.add_argument("--kills-with-ray", type=int, default=20, help="kills of drivers with Ray")
    parser.add_argument("--worker-faults", type=int, default=100, help="kills and freezes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        database = root / "mlflow.db"
        open_store(f"sqlite:///{database}")

        def fresh(name: str) -> Folder:
            (root / name).mkdir()
            return make_folder(root / name, database)

        expected = fresh("whole").sumgrad("train", "flowers.yaml", *SPEC, "--json").result
        sha256 = str(expected["weights_sha256"])
        for what, kills, more in (
            ("kills of drivers", options.kills, ()),
            ("kills of drivers with Ray", options.kills_with_ray, WITH_RAY),
        ):
            done, seed = 0, options.seed
            while done < kills:
                seed += 1
                folder = fresh(f"{what}-{seed}")
                finished = run_with_kills(folder, min(10, kills - done), seed, (*SPEC, *more))
                done += len(finished.checkpoints)
                steps = (name[5:14].lstrip("0") or name for name in finished.checkpoints)
                check(f"{done} {what}, newest checkpoints {', '.join(steps)}", finished, sha256)
        done, seed = 0, options.seed
        while done < options.worker_faults:
            seed += 1
            wanted = min(40, options.worker_faults - done)
            finished, count = run_with_worker_faults(fresh(f"workers-{seed}"), wanted, seed, SPEC)
            done += count
            check(f"{done} faults of workers", finished, sha256)


def check(what: str, finished: FinishedRun, sha256: str) -> None:
    """Print whether weights and loss curve are those of the undisturbed run; exit if not."""
    same = finished.weights_sha256 == sha256
    complete = finished.epochs == list(range(1, EPOCHS + 1))
    sys.stdout.write(
        f"{what}: {'the same' if same else 'OTHER'} weights {finished.weights_sha256[:16]}…, "
        f"{'each' if complete else 'NOT each'} epoch once\n"
    )
    if not (same and complete):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
