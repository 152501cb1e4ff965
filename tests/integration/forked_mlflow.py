"""MLflow processes forked from one that has imported MLflow, which takes five seconds each time.

Tests that run a command in the test's process use these. Tests that start ``sumgrad`` as a process
start MLflow's process as users do.
"""

import multiprocessing as mp
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from sumgrad.jobs.tracking import mlflow_process, run_tracker

FORKSERVER = mp.get_context("forkserver")


class ForkedProcess:
    """The part of `subprocess.Popen` that `RunTracker` uses.

    Args:
        _command: Not used: the process runs `mlflow_process.main`.
        stdin: The file descriptor of the connection to the parent.
        cwd: The working directory.
        env: The environment variables.
    """

    def __init__(
        self, _command: object, stdin: int, cwd: Path, env: Mapping[str, str], **_: Any
    ) -> None:
        with Connection(os.dup(stdin)) as connection:
            self._process = FORKSERVER.Process(
                target=_serve, args=(connection, cwd, dict(env)), daemon=True
            )
            self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()

    def wait(self) -> int | None:
        """Wait for the end of the process and return its exit code."""
        self._process.join()
        return self._process.exitcode


def _serve(connection: Connection, folder: Path, environment: Mapping[str, str]) -> None:
    os.dup2(connection.fileno(), 0)
    connection.close()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    mlflow_process.main()


@contextmanager
def forked_mlflow_processes() -> Iterator[None]:
    """Fork the MLflow processes of runs that start in this process meanwhile."""
    fake = SimpleNamespace(Popen=ForkedProcess, DEVNULL=subprocess.DEVNULL)
    with mock.patch.object(run_tracker, "subprocess", fake):
        yield
