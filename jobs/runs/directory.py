"""The directory of a run: all that is needed to resume it, list it and deliver it to MLflow.

runs/<job name>-<6 characters>/
run.json        what the run is, and how it ended; see `sumgrad.jobs.tracking.metadata.RunRecord`
spec.yaml       the spec with every default filled in, without secrets
lock            locked by the process that trains or delivers the run
metrics.jsonl   every value of its metrics
delivery.json   what MLflow has of it; see `sumgrad.jobs.tracking.outbox`
checkpoints/    see `sumgrad.jobs.runs.checkpoints`
model/          see `sumgrad.jobs.artifacts.saved_model`
example.json    rows for the model's signature in MLflow
"""

import fcntl
import os
import re
import secrets
import socket
import stat
import string
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sumgrad.jobs.errors import RunAmbiguous, RunDamaged, RunLocked, RunNotFound
from sumgrad.jobs.runs.checkpoints import CheckpointStore
from sumgrad.jobs.support.files import is_partial, write_folder, write_text
from sumgrad.jobs.tracking.metadata import RECORD, RunRecord
from sumgrad.jobs.tracking.outbox import EXAMPLE, METRICS, MODEL, Receipt

SPEC = "spec.yaml"
_LOCK = "lock"
_LOCK_TIMEOUT_S = 0.25  #: A process that only checks a lock holds it for a moment.
_ID_ALPHABET = string.ascii_lowercase + string.digits
_ID_CHARACTERS = 6


def now() -> str:
    """Return the current time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_run_id(name: str) -> str:
    """Return a run id: the job's name and six random characters.

    >>> new_run_id("digits")[:7], len(new_run_id("digits"))
    ('digits-', 13)
    """
    return f"{name}-" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_CHARACTERS))


class RunDirectory:
    """A run on disk, with the content of its ``run.json``. It keeps its path for life."""

    def __init__(self, path: Path, record: RunRecord) -> None:
        # While Ray starts, the working directory changes for a moment.
        self.path = path.absolute()
        self.record = record
        # One thread may acquire it and another release it.
        self._lock = FileLock(self.path / _LOCK, timeout=_LOCK_TIMEOUT_S, thread_local=False)

    @classmethod
    def create(
        cls, path: Path, record: RunRecord, example: str = "", locks: ExitStack | None = None
    ) -> "RunDirectory":
        """Create the directory of a new run, completely or, if an OSError is raised, not at all.

        If given, `locks` holds the run's lock.
        """
        spec = record.metadata.spec_yaml
        contents = {SPEC: spec, EXAMPLE: example, METRICS: "", RECORD: record.to_json()}

        def fill(folder: Path) -> None:
            for name, text in contents.items():
                (folder / name).write_text(text, encoding="utf-8")
            if locks is not None:
                # Another process would record a visible run without a lock as KILLED.
                locks.enter_context(cls(folder, record).lock())

        write_folder(path, fill)
        return cls(path, record)

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """Open the directory of an earlier run.

        Raises:
            RunNotFound: There is none.
            RunDamaged: Its record is damaged, or a link in it leads out of it.
        """
        file = path / RECORD
        try:
            record = RunRecord.read(path)
            _check_enclosed(path)
        except FileNotFoundError:
            raise RunNotFound(f"no run at {path}: it has no {RECORD}") from None
        except OSError as error:
            raise RunDamaged(f"{file} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise RunDamaged(f"{file} is damaged: {error}") from None
        return cls(path, record)

    def update(self, **changes: Any) -> None:
        """Change fields of the record, on disk first; raise OSError if it cannot be written."""
        record = replace(self.record, **changes)
        write_text(self.path / RECORD, record.to_json())
        self.record = record

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.path / MODEL

    @property
    def mlflow_run_id(self) -> str | None:
        """MLflow's id of the run; None until MLflow has it."""
        return Receipt.read(self.path).mlflow_run_id

    @property
    def is_delivered(self) -> bool:
        """Whether the run has ended and MLflow has everything."""
        end = self.record.end
        return end is not None and Receipt.read(self.path).end == end

    def checkpoints(self, keep: int = 2) -> CheckpointStore:
        """Return the run's checkpoints."""
        return CheckpointStore(self.path / "checkpoints", keep)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run's lock, and read its record again, which another process may have changed.

        Raises:
            RunLocked: Another process holds the lock, which is released when it ends.
            RunDamaged: The run has been damaged.
        """
        file = self.path / _LOCK
        try:
            self._lock.acquire()
        except Timeout:
            owner = file.read_text(encoding="utf-8", errors="replace")[:200] or "another process"
            problem = f"run {self.record.run_id} is locked by {owner}"
            raise RunLocked(problem, hint="wait for it, or end that process first") from None
        try:
            self.record = RunDirectory.open(self.path).record
            file.write_text(f"process {os.getpid()} on {socket.gethostname()} since {now()}")
            yield
        finally:
            self._lock.release()

    @property
    def is_locked(self) -> bool:
        """Whether another process trains or delivers the run."""
        try:
            # Unlike `lock`, this needs no permission to write.
            with (self.path / _LOCK).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False  # There is no lock file, or it cannot be read.
        return False

    @property
    def status(self) -> str:
        """RUNNING, FINISHED, FAILED or KILLED."""
        if self.record.end is not None:
            return self.record.end.status
        return "RUNNING" if self.is_locked else "KILLED"


def all_runs(output: Path) -> list[RunDirectory]:
    """Return every run in an output folder, the newest first; damaged ones are left out."""
    found = []
    for path in output.iterdir() if output.is_dir() else ():
        if _has_record(path) and not is_partial(path):
            try:
                found.append(RunDirectory.open(path))
            except (RunNotFound, RunDamaged):
                continue
    return sorted(found, key=lambda run: run.record.started, reverse=True)


def run_folders(output: Path) -> list[Path]:
    """Return folders in which a run has left files, damaged runs too.

    The folders of submitted jobs have none of these files.
    """
    names = (RECORD, EXAMPLE, "checkpoints")
    paths = output.iterdir() if output.is_dir() else ()
    return [
        p.absolute() for p in paths if not is_partial(p) and any((p / n).exists() for n in names)
    ]


def find_run(name: str, output: Path) -> RunDirectory:
    """Find a run in an output folder by its directory, an id or a unique prefix of an id.

    Raises:
        RunNotFound: None has this name.
        RunAmbiguous: The ids of several start with it.
        RunDamaged: The run in this directory is damaged.
    """
    if _has_record(Path(name)):
        return RunDirectory.open(Path(name))
    if not re.fullmatch(r"[0-9a-zA-Z][0-9a-zA-Z._-]*", name):
        raise RunNotFound(f"no run '{name}'", hint="give a run's folder, its id or a prefix of it")
    runs = {run: (run.record.run_id, run.mlflow_run_id or "") for run in all_runs(output)}
    exact = [run for run, ids in runs.items() if name in ids]
    matching = exact or [run for run, ids in runs.items() if any(i.startswith(name) for i in ids)]
    if len(matching) > 1:
        hint = "give more characters"
        raise RunAmbiguous(f"several runs in {output} start with {name}", hint=hint)
    if not matching:
        hint = "give its folder, or that of all runs with --output"
        raise RunNotFound(f"no run {name} in {output}", hint=hint)
    return matching[0]


def _has_record(path: Path) -> bool:
    try:
        return (path / RECORD).is_file()
    except (OSError, ValueError):
        # The folder is unreadable, or the name is one that no file can have.
        return False


def _check_enclosed(folder: Path) -> None:
    """Raise RunDamaged if something in a run's directory leads out of it.

    Metrics are appended, old checkpoints are removed and the model is copied into MLflow. Behind a
    link each of them could be any file.
    """
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:
                continue  # A running process has renamed a file.
            if stat.S_ISLNK(mode) and not _leads_into(path, folder):
                raise RunDamaged(f"{folder} is refused: the link {path.name} leads out of it")
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                raise RunDamaged(f"{folder} is refused: {path.name} is neither a file nor a folder")


def _leads_into(link: Path, folder: Path) -> bool:
    try:
        return link.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        return False  # The links form a loop.
