"""A process that speaks as the one with MLflow does, and starts in a blink: it has none.

Run by file. The run's id says what becomes of a question; every call is noted in a file, whose path
stands in the place of the store's URI.
"""

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from sumgrad.jobs.errors import ModelNotFound, TrackingError, TrackingUnreachable
from sumgrad.jobs.tracking.client import RunDescription, RunRef, Status
from sumgrad.jobs.tracking.delivery import Refused
from sumgrad.jobs.tracking.mlflow_process import Service, take_channel
from sumgrad.jobs.tracking.outbox import Point

ERRORS: dict[str, Exception] = {
    "refuse": TrackingError("the run is deleted", hint="restore it"),
    "away": TrackingUnreachable("nobody answers", hint="start it"),
    "odd": Refused("never"),
    "damaged": ModelNotFound("no model there"),
    "defect": ZeroDivisionError("at http://me:s3cr3t@host/x"),
}


class StandIn:
    """Notes what it is asked, and answers."""

    def __init__(self, notes: str) -> None:
        self._notes = Path(notes)

    def _note(self, *words: object) -> None:
        with self._notes.open("a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def prepare(self) -> None:
        self._note("prepare")

    def create_run(self, run: RunDescription, *, may_exist: bool) -> RunRef:
        self._note("create_run", run.name, may_exist)
        return RunRef("made", "experiment")

    def get_run(self, run_id: str) -> RunRef:
        self._note("get_run", run_id)
        if run_id == "hang":
            threading.Event().wait()
        if run_id == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if run_id == "print":
            print("a line that somebody's library prints")  # noqa: T201
        if run_id in ERRORS:
            raise ERRORS[run_id]
        return RunRef(run_id, "experiment")

    def log_metrics(self, run_id: str, points: Sequence[Point]) -> None:
        self._note("log_metrics", run_id, *points)

    def log_model(self, run_id: str, folder: Path, example: Path, step: int) -> str:
        self._note("log_model", run_id, folder, example, step)
        return "model"

    def end_run(self, run_id: str, tags: Mapping[str, str], status: Status) -> None:
        self._note("end_run", run_id, dict(tags), status)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        self._note("set_tags", run_id, dict(tags))

    def continue_run(self, run_id: str) -> None:
        self._note("continue_run", run_id)


if __name__ == "__main__":
    Service(take_channel(), StandIn).wait()
