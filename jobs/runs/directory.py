"""A run's folder: all that is needed to go on with it, to list it, and to tell MLflow of it.

runs/<run id>/
run.json        what it is, and how it ended
spec.yaml       the spec, every default filled in, without secrets
lock            held by the process that has the run in hand
metrics.jsonl   every value of its curves; metrics.sent: how many MLflow has
checkpoints/    see sumgrad.jobs.runs.checkpoints
model/          see sumgrad.jobs.artifacts.saved_model
example.json    rows for the model's signature in MLflow
"""

import fcntl
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from sumgrad.jobs.errors import RunLocked, RunNotFound
from sumgrad.jobs.runs.checkpoints import CheckpointStore
from sumgrad.jobs.runs.record import check_enclosed, check_record, in_one_line
from sumgrad.jobs.support.files import sync, write_folder, write_text
from sumgrad.jobs.support.memory import read_small_file
from sumgrad.jobs.tracking import DatasetMetadata, RunMetadata

FORMAT = 1
RECORD = "run.json"
SPEC = "spec.yaml"
MODEL = "model"
EXAMPLE = "example.json"
_LOCK = "lock"
#: A run.json longer than this is none of ours.
_LONGEST_RECORD = 1 << 24
_TRIES, _PAUSE_S = 5, 0.05
#: Shorter beginnings of run ids are not looked for.
SHORTEST_PREFIX = 6


@dataclass(frozen=True)
class RunEnd:
    """How a run ended.

    Attributes:
        status: As MLflow has it.
        stop_reason: Why.
        tags: For MLflow.
        step: The epoch that the model is from.
        can_resume: Whether it makes sense to go on with it.
    """

    status: str
    stop_reason: str
    tags: Mapping[str, str]
    step: int
    can_resume: bool


@dataclass(frozen=True)
class RunRecord:
    """What ``run.json`` holds.

    Attributes:
        run_id: MLflow's id; one of our own where its store did not answer when the run began.
        key: Our own name of it, for MLflow.
        name: The job's.
        began: When, in UTC.
        tracking_uri: Without secrets.
        mlflow_run_id: The run's id in MLflow, once there is one.
        facts: What MLflow is told of it when it is made there.
        job: See `sumgrad.jobs.runs.signature`; None until the data have been read.
        end: None while it runs, or if its process was killed.
        is_delivered: Whether MLflow knows all there is to know.
        is_model_logged: Whether MLflow has the model.
    """

    run_id: str
    key: str
    name: str
    began: str
    tracking_uri: str
    facts: Mapping[str, Any]
    mlflow_run_id: str | None = None
    job: Mapping[str, Any] | None = None
    end: RunEnd | None = None
    is_delivered: bool = False
    is_model_logged: bool = False
    format: int = field(default=FORMAT)


class RunDirectory:
    """A run on disk.

    Args:
        path: Its folder.
        record: Of ``run.json``.
    """

    def __init__(self, path: Path, record: RunRecord) -> None:
        # The current folder is another one for a moment while Ray starts.
        self.path = path.absolute()
        self.record = record
        self._updating = threading.Lock()
        #: Held while the folder gets another name, and by whoever needs it to keep the one it has.
        self._moving = threading.RLock()
        self._is_removed = False

    @classmethod
    def create(
        cls, path: Path, record: RunRecord, spec_yaml: str, example: str = ""
    ) -> "RunDirectory":
        """Make the folder of a new run, whole or not at all.

        Args:
            path: Where; nothing may be there.
            record: What it is.
            spec_yaml: The spec.
            example: See `sumgrad.jobs.runs.sync.example_text`.

        Raises:
            OSError: It cannot be written.
        """
        texts = {SPEC: spec_yaml, EXAMPLE: example, RECORD: _as_text(record)}

        def fill(place: Path) -> None:
            for name, text in texts.items():
                (place / name).write_text(text, encoding="utf-8")

        write_folder(path, fill)
        return cls(path, record)

    def rename(self, run_id: str) -> None:
        """Give the run another id, and its folder that name, if none is there.

        Raises:
            OSError: It cannot be written.
        """
        self.update(run_id=run_id)
        with self._moving, self._updating:
            path = self.path.with_name(run_id)
            if not path.exists():
                self.path.rename(path)
                sync(path.parent)
                self.path = path

    @contextmanager
    def in_place(self) -> Iterator[bool]:
        """Have the folder stay where it is; gives whether it is there at all."""
        with self._moving:
            yield not self._is_removed

    def remove(self) -> None:
        """Remove all of it, for a run that never began."""
        with self._moving:
            self._is_removed = True
            shutil.rmtree(self.path, ignore_errors=True)

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """The folder of an earlier run.

        Raises:
            RunNotFound: There is none, or it is damaged, or has a link that leads out of it.
        """
        file = path / RECORD
        try:
            facts = json.loads(read_small_file(file, _LONGEST_RECORD))
            check_record(facts)
            if facts["format"] != FORMAT:
                raise RunNotFound(f"{file} has format {facts['format']!r}, not {FORMAT}")
            ending = None if facts["end"] is None else RunEnd(**facts["end"])
            if ending is not None:
                # It may tell of any error, in any number of lines.
                ending = replace(ending, stop_reason=in_one_line(ending.stop_reason))
            record = RunRecord(**facts | {"end": ending})
        except FileNotFoundError:
            raise RunNotFound(f"no run at {path}: it has no {RECORD}") from None
        except OSError as error:
            raise RunNotFound(f"{file} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunNotFound(f"{file} is damaged: {error}") from error
        try:
            check_enclosed(path)
        except ValueError as error:
            raise RunNotFound(f"{path} is not used: {error}") from None
        return cls(path, record)

    def update(self, **changes: Any) -> None:
        """Change what is recorded, on disk first.

        Raises:
            OSError: It cannot be written.
        """
        with self._updating:
            record = replace(self.record, **changes)
            write_text(self.path / RECORD, _as_text(record))
            self.record = record

    @property
    def journal_path(self) -> Path:
        """Of every value of its curves."""
        return self.path / "metrics.jsonl"

    @property
    def example_path(self) -> Path:
        """Of the rows for the model's signature."""
        return self.path / EXAMPLE

    @property
    def model(self) -> Path:
        """Of the trained model."""
        return self.path / MODEL

    def checkpoints(self, keep: int = 2) -> CheckpointStore:
        """Its checkpoints."""
        record = self.record
        run = {
            "run_id": record.run_id,
            "mlflow_run_id": record.mlflow_run_id,
            "name": record.name,
            "spec": record.facts.get("spec_yaml"),
        }
        return CheckpointStore(self.path / "checkpoints", keep, run)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Have the run in hand, until this process ends at the latest.

        Raises:
            RunLocked: Another process has.
        """
        with (self.path / _LOCK).open("a+") as lock:
            if not _locked(lock):
                lock.seek(0)
                raise RunLocked(
                    f"run {self.record.run_id} is in hand of {lock.read() or 'another process'}",
                    hint="wait for it, or end that process first",
                )
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()} since {now()}")
            lock.flush()
            yield

    @property
    def is_locked(self) -> bool:
        """Whether a process has the run in hand."""
        try:
            with (self.path / _LOCK).open("a+") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        return False

    @property
    def status(self) -> str:
        """RUNNING, or how it ended; one whose process was killed says KILLED."""
        if self.record.end is not None:
            return self.record.end.status
        return "RUNNING" if self.is_locked else "KILLED"


def _as_text(record: RunRecord) -> str:
    return json.dumps(asdict(record), indent=1) + "\n"


def _locked(lock: TextIO) -> bool:
    """Take a lock; whoever only looks whether it is taken holds it for a moment."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(_PAUSE_S)
        else:
            return True
    return False


def now() -> str:
    """This moment in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def all_runs(output: Path) -> list[RunDirectory]:
    """Every run below an output folder, the newest first; damaged ones are left out."""
    found = []
    for path in output.iterdir() if output.is_dir() else ():
        if _has_record(path):
            try:
                found.append(RunDirectory.open(path))
            except RunNotFound:
                continue
    return sorted(found, key=lambda run: run.record.began, reverse=True)


def _has_record(path: Path) -> bool:
    try:
        return (path / RECORD).is_file()
    except (OSError, ValueError):
        return False  # One that may not be looked into, or whose name no file can have.


def find_run(name: str, output: Path) -> RunDirectory:
    """A run by its folder, its id, or the beginning of one.

    Args:
        name: What a person gave.
        output: The folder of the runs.

    Raises:
        RunNotFound: None, or several.
    """
    if _has_record(Path(name)):
        return RunDirectory.open(Path(name))
    if not re.fullmatch(rf"[0-9a-zA-Z_-]{{{SHORTEST_PREFIX},}}", name):
        raise RunNotFound(
            f"'{name}' is no run",
            hint=f"a run's folder, its id, or the first {SHORTEST_PREFIX} or more characters of it",
        )
    matching = [
        run
        for run in all_runs(output)
        # The key is what the run was called before MLflow had answered.
        if any(
            known.startswith(name)
            for known in (run.record.run_id, run.record.key, run.record.mlflow_run_id or "")
        )
    ]
    if not matching:
        raise RunNotFound(
            f"no run {name} in {output}", hint="name its folder, or the one it is in with --output"
        )
    if len(matching) > 1:
        raise RunNotFound(f"several runs in {output} begin with {name}", hint="give more of it")
    return matching[0]


def facts_as_json(facts: RunMetadata) -> dict[str, Any]:
    """A run's facts as ``run.json`` keeps them."""
    return asdict(facts) | {"folder": str(facts.folder)}


def facts_from_json(facts: Mapping[str, Any]) -> RunMetadata:
    """The facts that `facts_as_json` was given."""
    datasets = [DatasetMetadata(**dataset) for dataset in facts["datasets"]]
    return RunMetadata(**dict(facts) | {"datasets": datasets, "folder": Path(facts["folder"])})
