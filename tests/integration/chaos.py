"""Kills a run at random moments, and goes on with it, until it is through.

``python -m tests.integration.chaos --kills 100`` is the long form; a test does it in small.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.run_folder import RunFolder, all_runs
from jobs.saved_model import load_model
from jobs.tracking import open_store
from tests.integration.command_line import Folder
from tests.integration.conftest import make_folder

EPOCHS = 1200
#: Long enough to be killed in, with a checkpoint whenever the one before it is written.
SPEC = (
    *("--set", f"stop.max_epochs={EPOCHS}", "--set", "checkpoint.every_steps=1"),
    *("--set", "optimizer.batch_size=4", "--set", "model.layers[0].units=800"),
    *("--set", "optimizer.name=adam", "--set", "optimizer.eta=0.01"),
)
#: When a kill comes, in seconds after the start: from before there is anything to go on with.
BETWEEN_S = (1.5, 5.0)


@dataclass(frozen=True)
class Survived:
    """A run that came to its end after all.

    Attributes:
        moments: The newest checkpoint at each kill.
        run: Its folder.
    """

    moments: Sequence[str]
    run: RunFolder

    @property
    def weights_sha256(self) -> str:
        """Of the model that it left."""
        return load_model(self.run.model).parameters.sha256()

    @property
    def epochs(self) -> Sequence[int]:
        """Those of which MLflow has a loss, in order."""
        store = open_store(self.run.record.tracking_uri)
        history = store.client.get_metric_history(self.run.record.run_id, "train_loss")
        return [metric.step for metric in history]


def newest_step(folder: Folder) -> str:
    """The newest checkpoint of the folder's only run."""
    names = sorted(path.name for path in folder.path.glob("runs/*/checkpoints/step-*"))
    return names[-1] if names else "none"


def run_with_kills(folder: Folder, kills: int, seed: int, spec: Sequence[str] = SPEC) -> Survived:
    """Train in a folder, killed with SIGKILL at most so often at moments that the seed decides."""
    generator = random.Random(seed)
    moments: list[str] = []
    arguments: tuple[str, ...] = ("train", "flowers.yaml", *spec)
    while len(moments) < kills:
        process = folder.start(*arguments, "--json")
        time.sleep(generator.uniform(*BETWEEN_S))
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
            if run.record.ending is not None:
                # Killed between its end and its exit.
                break
            arguments = ("resume", run.record.run_id)
    else:
        done = folder.sumgrad(*arguments, "--json")
        if done.code:
            raise RuntimeError(done.err)
    (run,) = all_runs(folder.path / "runs")
    return Survived(moments, run)


def main() -> None:
    """Kill and go on in rounds of ten, and compare every hash with an undisturbed run's."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=100)
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
        done, seed = 0, asked.seed
        while done < asked.kills:
            seed += 1
            kills = min(10, asked.kills - done)
            survived = run_with_kills(fresh(f"round-{seed}"), kills, seed)
            done += len(survived.moments)
            same = survived.weights_sha256 == expected["weights_sha256"]
            same_curve = survived.epochs == list(range(1, EPOCHS + 1))
            sys.stdout.write(
                f"{done} kills, {'the same' if same else 'OTHER'} weights, "
                f"{'every' if same_curve else 'NOT every'} epoch once; newest checkpoints: "
                + ", ".join(name[5:14].lstrip("0") or name for name in survived.moments)
                + "\n"
            )
            if not (same and same_curve):
                raise SystemExit(1)
        sys.stdout.write(f"{done} kills, every hash {expected['weights_sha256'][:16]}…\n")


if __name__ == "__main__":
    main()
