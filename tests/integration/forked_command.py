"""``sumgrad`` as `Folder.start` runs it: forked, and paused after chosen epochs.

A test that needs a run in a certain state has it pause after an epoch, and so depends on no clock.
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn
from unittest import mock

from sumgrad.jobs.support.environment import limit_blas_threads
from tests.integration.fork_server import forked_mlflow_processes

#: Names the epochs after which a run pauses, separated by commas.
PAUSES = "SUMGRAD_TESTS_PAUSES"
_POLL_S = 0.01


def paused_file(folder: Path, epoch: int) -> Path:
    """Return the file that a run writes when it pauses after an epoch."""
    return folder / f"paused-{epoch}"


def release_file(folder: Path, epoch: int) -> Path:
    """Return the file for which a paused run waits."""
    return folder / f"released-{epoch}"


def run() -> NoReturn:
    """Run the command line."""
    # Before NumPy is imported.
    limit_blas_threads()
    from sumgrad.jobs.cli import main

    sys.argv[0] = "sumgrad"
    epochs = [int(epoch) for epoch in os.environ.pop(PAUSES, "").split(",") if epoch]
    with forked_mlflow_processes(), _pauses(epochs, Path.cwd()):
        main()


@contextmanager
def _pauses(epochs: list[int], folder: Path) -> Iterator[None]:
    """Pause when the metrics of an epoch are logged, which is before its checkpoint."""
    from sumgrad.jobs.tracking.outbox import Outbox

    log = Outbox.log

    def log_and_pause(outbox: Outbox, step: int, metrics: Mapping[str, float]) -> None:
        log(outbox, step, metrics)
        if step in epochs:
            paused_file(folder, step).touch()
            while not release_file(folder, step).exists():
                time.sleep(_POLL_S)

    with mock.patch.object(Outbox, "log", log_and_pause):
        yield
