"""A server that forks processes from one that has imported MLflow, which takes seconds.

Runs in the test's process and those of `Folder.start` use it, and so does `mlflow_server`.
`test_mlflow_process` and `Folder.run_process` start MLflow's process as users do, and the cluster
of `test_service` the server.
"""

import functools
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest import mock

from sumgrad.jobs.support.threads import die_with_parent

#: Names the server's socket.
VARIABLE = "SUMGRAD_TESTS_MLFLOW_FORK_SERVER"
MLFLOW_PROCESS = ("sumgrad.jobs.tracking.mlflow_process", "main")
_MAX_REQUEST = 1 << 20


class ForkedProcess:
    """The part of `subprocess.Popen` that tests and `RunTracker` use.

    Args:
        main: A module, and a function of it to call.
        arguments: What the function finds in ``sys.argv``.
        streams: Standard input, output and error; the last ones may be missing.
        cwd: The working directory.
        env: The environment variables.
    """

    def __init__(
        self,
        main: tuple[str, str],
        arguments: Sequence[str],
        streams: Sequence[int],
        cwd: Path,
        env: Mapping[str, str],
    ) -> None:
        request = json.dumps((main, arguments, str(cwd), dict(env))).encode()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
            server.connect(os.environ[VARIABLE])
            socket.send_fds(server, [request], streams)
            answer, descriptors, _flags, _sender = socket.recv_fds(server, 32, 1)
        self.pid = int(answer)
        self._handle = descriptors[0]

    def kill(self) -> None:
        """Kill the process."""
        self._send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send_signal(signal.SIGTERM)

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the end of the process."""
        if not select.select([self._handle], [], [], timeout)[0]:
            raise TimeoutError

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return bool(select.select([self._handle], [], [], 0)[0])

    def _send_signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)

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

    def start(
        _command: object, stdin: int, cwd: Path, env: Mapping[str, str], **_: Any
    ) -> ForkedProcess:
        return ForkedProcess(MLFLOW_PROCESS, (), [stdin], cwd, env)

    fake = SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL)
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


@functools.cache
def _import_server() -> None:
    """Import everything that servers need, and have ``mlflow server`` start no other process."""
    # MLflow's server checks whether uvicorn is imported.
    uvicorn = importlib.import_module("uvicorn.main")
    for name in ("mlflow.cli", "mlflow.server.fastapi_app", "uvicorn.protocols.http.auto"):
        importlib.import_module(name)

    def run_uvicorn(command: Sequence[str], extra_env: Mapping[str, str], **_: Any) -> None:
        os.environ.update(extra_env)
        (_python, _m, _uvicorn, *arguments) = command
        uvicorn.main(arguments)

    mock.patch("mlflow.server._exec_cmd", run_uvicorn).start()


def _serve(listener: socket.socket) -> NoReturn:
    """Fork a process for each connection."""
    children: set[int] = set()
    while True:
        connection, _ = listener.accept()
        children = {pid for pid in children if os.waitpid(pid, os.WNOHANG) == (0, 0)}
        with connection:
            request, streams, *_ = socket.recv_fds(connection, _MAX_REQUEST, 3)
            main, *others = json.loads(request)
            if tuple(main) != MLFLOW_PROCESS:
                _import_server()
            if not (pid := os.fork()):
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                for descriptor in (*streams, connection.detach(), listener.detach()):
                    os.close(descriptor)
                _become(main, *others)
            handle = os.pidfd_open(pid)
            socket.send_fds(connection, [str(pid).encode()], [handle])
            for descriptor in (handle, *streams):
                os.close(descriptor)
            children.add(pid)


def _become(
    main: Sequence[str], arguments: Sequence[str], folder: str, environment: Mapping[str, str]
) -> NoReturn:
    die_with_parent()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    module, function = main
    sys.argv = [module, *arguments]
    try:
        getattr(importlib.import_module(module), function)()
    except BaseException:  # noqa: BLE001 - it must not return to the server's loop
        traceback.print_exc()
    os._exit(1)


if __name__ == "__main__":
    die_with_parent()
    _import_all()
    _serve(socket.socket(fileno=os.dup(0)))
