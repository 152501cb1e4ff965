"""A fork server: it forks the processes of tests from one that has imported MLflow and sumgrad.

That saves seconds per process. Forked are the commands of `Folder.start`, the servers of
`mlflow_server`, and the MLflow processes of runs. Not forked are `Folder.run_installed`, `training`
of `test_mlflow_process` and the cluster of `test_service`.
"""

import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from unittest import mock

from sumgrad.jobs.support.environment import limit_blas_threads
from sumgrad.jobs.support.threads import die_with_parent

#: Names the server's socket.
VARIABLE = "SUMGRAD_TESTS_FORK_SERVER"
_MLFLOW_PROCESS = ("sumgrad.jobs.tracking.mlflow_process", "main")
_COMMAND = ("tests.integration.forked_command", "run")
_MAX_REQUEST = 1 << 20


class ForkedProcess:
    """The part of `subprocess.Popen` that tests and `RunTracker` use.

    Args:
        entry_point: A module, and a function of it to call.
        arguments: What the function finds in ``sys.argv``.
        streams: Standard input, output and error; the last ones may be missing.
        cwd: The working directory.
        env: The environment variables.
    """

    def __init__(
        self,
        entry_point: tuple[str, str],
        arguments: Sequence[str],
        streams: Sequence[int],
        cwd: Path,
        env: Mapping[str, str],
    ) -> None:
        with _request((entry_point, arguments, str(cwd), dict(env)), streams) as server:
            answer, descriptors, _flags, _sender = socket.recv_fds(server, 32, 1)
        self.pid = int(answer)
        self.returncode: Any = None
        self._handle = descriptors[0]

    def kill(self) -> None:
        """Kill the process."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process, and return its exit code."""
        if self.returncode is None:
            if not select.select([self._handle], [], [], timeout)[0]:
                raise TimeoutError
            with _request(self.pid) as server:
                self.returncode = int(server.recv(32))
        return int(self.returncode)

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        with suppress(TimeoutError):
            return self.wait(0)
        return None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)

    def __del__(self) -> None:
        os.close(self._handle)


class ForkedCommand(ForkedProcess):
    """``sumgrad`` as a forked process; the part of `subprocess.Popen` that tests use.

    Args:
        arguments: The arguments of the command line.
        cwd: The working directory.
        env: The environment variables.
    """

    def __init__(self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        out, err = os.pipe(), os.pipe()
        with Path(os.devnull).open() as nothing:
            super().__init__(_COMMAND, arguments, [nothing.fileno(), out[1], err[1]], cwd, env)
        for descriptor in (out[1], err[1]):
            os.close(descriptor)
        self.stdout = os.fdopen(out[0], encoding="utf-8")
        self.stderr = os.fdopen(err[0], encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        self.wait()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return the rest of its output once it has ended."""
        with ThreadPoolExecutor(2) as pool:
            outputs = [pool.submit(stream.read) for stream in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except TimeoutError:
                self.kill()
                raise
        self._close()
        return outputs[0].result(), outputs[1].result()

    def _close(self) -> None:
        self.stdout.close()
        self.stderr.close()


@contextmanager
def _request(content: object, streams: Sequence[int] = ()) -> Iterator[socket.socket]:
    """Send the server a request; yield the connection, for the answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(os.environ[VARIABLE])
        socket.send_fds(server, [json.dumps(content).encode()], streams)
        yield server


@contextmanager
def running_fork_server() -> Iterator[None]:
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
        return ForkedProcess(_MLFLOW_PROCESS, (), [stdin], cwd, env)

    fake = SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL)
    with mock.patch.object(run_tracker, "subprocess", fake):
        yield


def _import_all() -> None:
    """Import everything that MLflow processes and commands need."""
    from sumgrad.jobs.tracking.store import prepare_mlflow

    prepare_mlflow()
    for name in (
        "alembic.config",
        "mlflow.pyfunc",
        "mlflow.store.tracking.sqlalchemy_store",
        "mlflow.store.model_registry.sqlalchemy_store",
        "sumgrad.jobs.tracking.mlflow_process",
        "sumgrad.jobs.cli.app",
        "sumgrad.jobs.runs.training",
        "sumgrad.jobs.spec.loader",
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


def _serve(listener: socket.socket) -> Callable[[], object]:
    """Serve requests forever; in a forked process, return the function to call.

    A request is ``[entry_point, arguments, folder, environment]``, answered with the process id and
    a descriptor of the process; or the id of a process that has ended, answered with its exit code.
    """
    exit_codes: dict[int, int] = {}
    while True:
        connection, _ = listener.accept()
        with connection:
            content, streams, *_ = socket.recv_fds(connection, _MAX_REQUEST, 3)
            request = json.loads(content)
            _reap(exit_codes)
            if isinstance(request, int):
                connection.send(str(exit_codes.pop(request)).encode())
                continue
            entry_point, arguments, folder, environment = request
            if tuple(entry_point) not in (_MLFLOW_PROCESS, _COMMAND):
                _import_server()
            # Garbage collections in the forked process would copy all imported modules.
            gc.freeze()
            if not (pid := os.fork()):
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                for descriptor in (*streams, connection.detach(), listener.detach()):
                    os.close(descriptor)
                return _become(entry_point, arguments, folder, environment)
            handle = os.pidfd_open(pid)
            socket.send_fds(connection, [str(pid).encode()], [handle])
            for descriptor in (handle, *streams):
                os.close(descriptor)


def _reap(exit_codes: dict[int, int]) -> None:
    """Add the exit codes of the processes that have ended."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            exit_codes[ended[0]] = os.waitstatus_to_exitcode(ended[1])


def _become(
    entry_point: Sequence[str],
    arguments: Sequence[str],
    folder: str,
    environment: Mapping[str, str],
) -> Callable[[], object]:
    """Take on a request's folder, environment and arguments; return its function."""
    die_with_parent()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    module, function = entry_point
    sys.argv = [module, *arguments]
    found: Callable[[], object] = getattr(importlib.import_module(module), function)
    return found


if __name__ == "__main__":
    die_with_parent()
    # Before NumPy is imported.
    limit_blas_threads()
    _import_all()
    # The interpreter ends as in a process of its own: with the exit code and its exit handlers.
    _serve(socket.socket(fileno=os.dup(0)))()
