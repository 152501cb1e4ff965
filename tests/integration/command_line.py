"""Run ``sumgrad`` in a user's folder, in this process or as a process."""

import contextlib
import io
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from mlflow import MlflowClient
from mlflow.entities import Run

from sumgrad.jobs.cli.app import run
from sumgrad.jobs.runs.directory import RunDirectory, all_runs
from sumgrad.jobs.support.polling import wait_until
from tests.integration import fork_server, forked_command
from tests.integration.fork_server import ForkedCommand

SUMGRAD = str(Path(sysconfig.get_path("scripts")) / "sumgrad")
#: A running command.
Command = subprocess.Popen[str] | ForkedCommand


@dataclass(frozen=True)
class Finished:
    """The exit code and the output of a finished command."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """The JSON object on the last line of stdout."""
        value: dict[str, Any] = json.loads(self.out.strip().splitlines()[-1])
        return value

    @property
    def results(self) -> list[dict[str, Any]]:
        """The JSON array on the last line of stdout."""
        value: list[dict[str, Any]] = json.loads(self.out.strip().splitlines()[-1])
        return value

    @property
    def error(self) -> str:
        """The error line; there is exactly one, and no traceback."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in self.err
        return line


@dataclass(frozen=True)
class Folder:
    """A folder that a user works in."""

    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def sumgrad(self, *arguments: str) -> Finished:
        """Run ``sumgrad`` in this process, which saves the seconds that its imports take."""
        options = [item for item in arguments if item != "--debug"]
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment),
            contextlib.chdir(self.path),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = run(options, debug=len(options) < len(arguments))
        return Finished(code, out.getvalue(), err.getvalue())

    def start(self, *arguments: str, pauses: Sequence[int] = ()) -> Command:
        """Start ``sumgrad`` as a forked process that pauses after these epochs until `release`.

        Without a fork server, start the installed command.
        """
        if fork_server.VARIABLE not in os.environ:
            assert not pauses
            return self._start_installed(arguments)
        for epoch in pauses:
            forked_command.paused_file(self.path, epoch).unlink(missing_ok=True)
            forked_command.release_file(self.path, epoch).unlink(missing_ok=True)
        variables = {forked_command.PAUSES: ",".join(map(str, pauses))}
        return ForkedCommand(arguments, self.path, {**os.environ, **self.environment, **variables})

    def wait_for_pause(self, process: Command, epoch: int) -> None:
        """Wait until a run has paused after an epoch."""
        paused = forked_command.paused_file(self.path, epoch)
        assert wait_until(lambda: paused.exists() or process.poll() is not None, 60, interval=0.01)
        assert process.poll() is None, process.communicate()

    def release(self, epoch: int) -> None:
        """Let a run continue that has paused after an epoch."""
        forked_command.release_file(self.path, epoch).touch()

    def _start_installed(self, arguments: Sequence[str]) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [SUMGRAD, *arguments],
            cwd=self.path,
            env=os.environ | dict(self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def run_installed(self, *arguments: str) -> Finished:
        """Run the installed command to its end, as users do."""
        process = self._start_installed(arguments)
        out, err = process.communicate(timeout=120)
        return Finished(process.returncode, out, err)

    def python(self, code: str) -> Finished:
        """Run a Python program here, as a user would."""
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    @property
    def tracking_uri(self) -> str:
        """The default store of this folder."""
        return f"sqlite:///{self.path / 'mlflow.db'}"

    def run_directory(self) -> RunDirectory:
        """Return the folder's only run."""
        (run,) = all_runs(self.path / "runs")
        return run

    def mlflow_runs(self) -> Sequence[Run]:
        """Return the runs of the folder's store."""
        client = MlflowClient(self.tracking_uri)
        experiments = [each.experiment_id for each in client.search_experiments()]
        return client.search_runs(experiments)

    def mlflow_run(self) -> Run:
        """Return the only run of the folder's store."""
        (run,) = self.mlflow_runs()
        return run
