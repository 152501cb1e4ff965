"""Kill a run at random moments and resume it; kill and freeze its workers.

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

from sumgrad.jobs.artifacts.saved_model import load_model
from sumgrad.jobs.runs.directory import RunDirectory, all_runs
from sumgrad.jobs.tracking.store import open_store
from tests.integration.command_line import Folder
from tests.integration.conftest import make_folder

EPOCHS = 1200
#: Long enough to be killed in, with checkpoints as often as they can be written.
SPEC = (
    *("--set", f"stop.max_epochs={EPOCHS}", "--set", "checkpoint.every_steps=1"),
    *("--set", "optimizer.batch_size=4", "--set", "model.layers[0].units=800"),
    *("--set", "optimizer.name=adam", "--set", "optimizer.eta=0.01"),
)
#: Seconds from the start to a kill; the earliest come before the first checkpoint.
BETWEEN_S = (0.5, 5.0)
#: With Ray, which takes some seconds to start.
BETWEEN_S_WITH_RAY = (3.0, 12.0)
WITH_RAY = ("--set", "cluster.address=local", "--set", "cluster.workers=3")
#: Seconds from one strike at workers to the next.
STRIKES_S = (0.1, 1.5)
#: One of this many strikes freezes the worker instead of killing it.
_FREEZE_EVERY = 5


@dataclass(frozen=True)
class Survived:
    """A run that finished in spite of the kills.

    Attributes:
        moments: The newest checkpoint at each kill.
        run: Its folder.
    """

    moments: Sequence[str]
    run: RunDirectory

    @property
    def weights_sha256(self) -> str:
        """Of the model that it left."""
        return load_model(self.run.model).parameters.sha256()

    @property
    def epochs(self) -> Sequence[int]:
        """Those of which MLflow has a loss, in order."""
        store = open_store(self.run.record.tracking_uri)
        # Killed before MLflow had answered, a run has an id of its own.
        run_id = self.run.mlflow_run_id
        assert run_id is not None
        history = store.client.get_metric_history(run_id, "train_loss")
        return [metric.step for metric in history]


def newest_step(folder: Folder) -> str:
    """The newest checkpoint of the folder's only run."""
    names = sorted(path.name for path in folder.path.glob("runs/*/checkpoints/step-*"))
    return names[-1] if names else "none"


def run_with_kills(
    folder: Folder,
    kills: int,
    seed: int,
    spec: Sequence[str] = SPEC,
    between_s: tuple[float, float] = BETWEEN_S,
) -> Survived:
    """Train in a folder, killed with SIGKILL at most so often at moments that the seed decides."""
    generator = random.Random(seed)
    moments: list[str] = []
    arguments: tuple[str, ...] = ("train", "flowers.yaml", *spec)
    while len(moments) < kills:
        process = folder.start(*arguments, "--json")
        time.sleep(generator.uniform(*between_s))
        process.send_signal(signal.SIGKILL)
        _, err = process.communicate()
        if process.returncode == 0:
            break
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError(err)
        moments.append(newest_step(folder))
        runs = all_runs(folder.path / "runs")
        if runs:
            (run,) = runs
            if run.record.end is not None:
                # Killed between its end and its exit.
                break
            arguments = ("resume", run.record.run_id)
    else:
        done = folder.sumgrad(*arguments, "--json")
        if done.code:
            raise RuntimeError(done.err)
    (run,) = all_runs(folder.path / "runs")
    return Survived(moments, run)


def run_with_strikes(
    folder: Folder, strikes: int, seed: int, spec: Sequence[str]
) -> tuple[Survived, int]:
    """Train with Ray workers, of which one or more are killed, or frozen, again and again.

    Returns:
        What came of it, and how many were struck before it was through.
    """
    generator = random.Random(seed)
    struck = 0
    process = folder.start("train", "flowers.yaml", *spec, *WITH_RAY, "--json")
    while not has_begun(folder) and process.poll() is None:
        # A job whose first workers all fail to start, again and again, is told so and ends.
        time.sleep(0.05)
    while struck < strikes and process.poll() is None:
        time.sleep(generator.uniform(*STRIKES_S))
        workers = serving(process.pid)
        for pid in generator.sample(workers, min(len(workers), generator.randint(1, 3))):
            freezes = struck % _FREEZE_EVERY == _FREEZE_EVERY - 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP if freezes else signal.SIGKILL)
                struck += 1
    _, err = process.communicate()
    if process.returncode:
        raise RuntimeError(err)
    (run,) = all_runs(folder.path / "runs")
    return Survived([], run), struck


def has_begun(folder: Folder) -> bool:
    """Whether the first epoch is done."""
    return any(file.stat().st_size for file in folder.path.glob("runs/*/metrics.jsonl"))


def serving(driver: int) -> list[int]:
    """Return the process ids of the Ray workers below a driver; names are cut at 15 characters."""
    parents, names = dict[int, int](), dict[int, str]()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = status.read_text().partition("(")[2].rpartition(")")
            parents[int(status.parent.name)] = int(rest.split()[1])
            names[int(status.parent.name)] = name

    def is_below(pid: int) -> bool:
        return pid == driver or (pid in parents and is_below(parents[pid]))

    return [pid for pid, name in names.items() if "WorkerProc" in name and is_below(pid)]


def main() -> None:
    """Kill and resume in rounds of ten, and compare every hash with an undisturbed run's."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of drivers without Ray")
    parser.add_argument("--kills-with-ray", type=int, default=20, help="of drivers with workers")
    parser.add_argument("--strikes", type=int, default=100, help="at workers")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        database = root / "mlflow.db"
        open_store(f"sqlite:///{database}")

        def fresh(name: str) -> Folder:
            (root / name).mkdir()
            return make_folder(root / name, database)

        expected = fresh("whole").sumgrad("train", "flowers.yaml", *SPEC, "--json").result
        sha256 = str(expected["weights_sha256"])
        kinds = (
            ("kills of drivers", asked.kills, ()),
            ("kills of drivers of Ray workers", asked.kills_with_ray, WITH_RAY),
        )
        for what, wanted, more in kinds:
            done, seed = 0, asked.seed
            while done < wanted:
                seed += 1
                survived = run_with_kills(
                    fresh(f"{what}-{seed}"),
                    min(10, wanted - done),
                    seed,
                    (*SPEC, *more),
                    BETWEEN_S_WITH_RAY if more else BETWEEN_S,
                )
                done += len(survived.moments)
                moments = (name[5:14].lstrip("0") or name for name in survived.moments)
                tell(f"{done} {what}", survived, sha256, "newest: " + ", ".join(moments))
        done, seed = 0, asked.seed
        while done < asked.strikes:
            seed += 1
            wanted = min(40, asked.strikes - done)
            survived, struck = run_with_strikes(fresh(f"strikes-{seed}"), wanted, seed, SPEC)
            done += struck
            tell(f"{done} strikes at workers", survived, sha256)


def tell(what: str, survived: Survived, sha256: str, more: str = "") -> None:
    """Say whether weights and curve are those of the undisturbed run; end if they are not."""
    same = survived.weights_sha256 == sha256
    same_curve = survived.epochs == list(range(1, EPOCHS + 1))
    sys.stdout.write(
        f"{what}: {'the same' if same else 'OTHER'} weights {survived.weights_sha256[:16]}…, "
        f"{'every' if same_curve else 'NOT every'} epoch once; {more}\n"
    )
    if not (same and same_curve):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
