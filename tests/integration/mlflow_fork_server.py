"""A server that forks MLflow processes from one that has imported MLflow, which takes seconds.

Runs in the test's process and those of `Folder.start` use it. `test_mlflow_process` and
`Folder.run_process` start MLflow's process as users do.
"""

import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest import mock

from sumgrad.jobs.support.threads import die_with_parent

#: Names the server's socket.
VARIABLE = "SUMGRAD_TESTS_MLFLOW_FORK_SERVER"
_MAX_REQUEST = 1 << 20


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
        request = json.dumps({"folder": str(cwd), "environment": dict(env)}).encode()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
            server.connect(os.environ[VARIABLE])
            socket.send_fds(server, [request], [stdin])
            answer, descriptors, _flags, _sender = socket.recv_fds(server, 32, 1)
        self.pid = int(answer)
        self._handle = descriptors[0]

    def kill(self) -> None:
        """Kill the process."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def wait(self) -> None:
        """Wait for the end of the process."""
        select.select([self._handle], [], [])

    def __del__(self) -> None:
        os.close(self._handle)


@contextmanager
def mlflow_fork_server() -> Iterator[None]:
    """Run the server, and name it in the environment."""
    with (
        tempfile.TemporaryDirectory(prefix="sg-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
    ):
        listener.bind(f"{folder}/socket")
        listener.listen()
        command = [sys.executable, "-m", __name__]
        with (
            subprocess.Popen(command, stdin=listener.fileno(), cwd=Path.cwd()) as process,
            mock.patch.dict(os.environ, {VARIABLE: f"{folder}/socket"}),
        ):
            try:
                yield
            finally:
                process.kill()


@contextmanager
def forked_mlflow_processes() -> Iterator[None]:
    """Fork the MLflow processes of runs that start in this process meanwhile."""
    from sumgrad.jobs.tracking import run_tracker

    fake = SimpleNamespace(Popen=ForkedProcess, DEVNULL=subprocess.DEVNULL)
    with mock.patch.object(run_tracker, "subprocess", fake):
        yield


def _import_all() -> None:
    """Import everything that MLflow processes need."""
    from sumgrad.jobs.tracking.store import prepare_mlflow

    prepare_mlflow()
    for name in (
        "alembic.config",
        "mlflow.pyfunc",
        "mlflow.store.tracking.sqlalchemy_store",
        "mlflow.store.model_registry.sqlalchemy_store",
        "sumgrad.jobs.tracking.mlflow_process",
    ):
        importlib.import_module(name)
    # MLflow lists the files of all installed packages when it first logs a model.
    importlib.import_module("mlflow.utils.requirements_utils")._init_packages_to_modules_map()


def _serve(listener: socket.socket) -> NoReturn:
    """Fork a process for each connection."""
    children: set[int] = set()
    while True:
        connection, _ = listener.accept()
        children = {pid for pid in children if os.waitpid(pid, os.WNOHANG) == (0, 0)}
        with connection:
            request, (stdin,), *_ = socket.recv_fds(connection, _MAX_REQUEST, 1)
            if not (pid := os.fork()):
                os.dup2(stdin, 0)
                for descriptor in (stdin, connection.detach(), listener.detach()):
                    os.close(descriptor)
                _become_mlflow_process(**json.loads(request))
            handle = os.pidfd_open(pid)
            socket.send_fds(connection, [str(pid).encode()], [handle])
            os.close(handle)
            os.close(stdin)
            children.add(pid)


def _become_mlflow_process(folder: str, environment: Mapping[str, str]) -> NoReturn:
    from sumgrad.jobs.tracking import mlflow_process

    die_with_parent()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    mlflow_process.main()
    os._exit(1)


if __name__ == "__main__":
    die_with_parent()
    _import_all()
    _serve(socket.socket(fileno=os.dup(0)))
