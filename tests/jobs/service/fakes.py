"""Fakes of a cluster: a clock, a job server in memory, and servers on loopback."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.errors import JobNotFound, ServiceUnreachable
from sumgrad.jobs.service.client.ray_api import RayJobsClient
from sumgrad.jobs.service.ids import ATTEMPT_KEY, JOB_KEY, NAME_KEY
from sumgrad.jobs.service.states import PENDING, RUNNING, SUCCEEDED, Attempt
from sumgrad.jobs.service.versions import Versions

ADDRESS = "http://head:8265"


class Clock:
    """Time that passes only during `sleep`; replaces that of the module `time`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("time.monotonic", self.monotonic)
        monkeypatch.setattr("time.sleep", self.sleep)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        assert seconds >= 0
        self.now += seconds


def attempt(
    submission_id: str = "digits-1",
    state: str = SUCCEEDED,
    *,
    exit_code: int | None = None,
    message: str = "",
    start_time: float | None = 1000.0,
    number: int = 1,
) -> Attempt:
    """Return an attempt of one of sumgrad's jobs."""
    return Attempt(
        submission_id=submission_id,
        ray_state=state,
        message=message,
        driver_exit_code=exit_code,
        start_time=start_time,
        end_time=None,
        metadata={
            JOB_KEY: submission_id.partition("~")[0],
            NAME_KEY: "digits",
            ATTEMPT_KEY: str(number),
        },
    )


@dataclass(frozen=True)
class Sent:
    """What a job server was sent."""

    submission_id: str
    entrypoint: str
    files: Mapping[str, bytes]
    modules: tuple[str, ...]
    metadata: Mapping[str, str]

    @property
    def manifest(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.files["job.json"])
        return value


@dataclass
class Memory:
    """State of a `FakeRayJobsClient`, and the calls it got.

    Attributes:
        probe_log: What a probe prints.
        on_submit: Called with the id of a submission before it is accepted.
        is_unreachable: Whether every call fails.
    """

    attempts: dict[str, Attempt] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    probe_log: str = ""
    on_submit: Callable[[str], None] = lambda _: None
    is_unreachable: bool = False


class FakeRayJobsClient(RayJobsClient):
    """A job server in memory, which accepts jobs and answers probes."""

    def __init__(self, *attempts: Attempt, cluster: Cluster | None = None) -> None:
        super().__init__(cluster or Cluster(address=ADDRESS))
        self.memory = Memory({each.submission_id: each for each in attempts})

    def _record(self, call: str) -> None:
        self.memory.calls.append(call)
        if self.memory.is_unreachable:
            raise ServiceUnreachable(f"no cluster answers at {self.cluster.address}")

    def ray_version(self) -> str:
        self._record("ray_version")
        return Versions.here().libraries["ray"]

    def _connect(self) -> Any:
        """Return this fake in the place of Ray's own client."""
        return self

    def submit_job(self, **job: Any) -> None:
        submission_id, metadata = job["submission_id"], dict(job["metadata"])
        self._record(f"submit {submission_id}")
        if submission_id.startswith("sumgrad-probe-"):
            self.memory.logs[submission_id] = self.memory.probe_log
            self.memory.attempts[submission_id] = replace(attempt(submission_id), metadata={})
            return
        self.memory.on_submit(submission_id)
        files = {}
        runtime_env = job["runtime_env"]
        if folder := runtime_env.get("working_dir"):
            files = {
                file.relative_to(folder).as_posix(): file.read_bytes()
                for file in Path(folder).rglob("*")
                if file.is_file()
            }
        modules = tuple(Path(module).name for module in runtime_env.get("py_modules", ()))
        self.memory.sent.append(Sent(submission_id, job["entrypoint"], files, modules, metadata))
        self.memory.attempts[submission_id] = replace(
            attempt(submission_id, PENDING), metadata=metadata
        )

    def get_attempt(self, submission_id: str) -> Attempt:
        self._record(f"get_attempt {submission_id}")
        if submission_id not in self.memory.attempts:
            raise JobNotFound("the cluster knows no such job")
        return self.memory.attempts[submission_id]

    def list_attempts(self) -> list[Attempt]:
        self._record("list_attempts")
        return list(self.memory.attempts.values())

    def stop(self, submission_id: str) -> None:
        self._record(f"stop {submission_id}")

    def delete(self, submission_id: str) -> None:
        self._record(f"delete {submission_id}")
        del self.memory.attempts[submission_id]

    def get_log(self, submission_id: str, *, timeout: float = 30.0) -> str:
        self._record(f"get_log {submission_id}")
        return self.memory.logs.get(submission_id, "")

    def tail_log(self, submission_id: str) -> Iterator[str]:
        self._record(f"tail_log {submission_id}")
        yield from self.memory.logs.get(submission_id, "").splitlines(keepends=True)


class ScriptedRayJobsClient(RayJobsClient):
    """A job server whose connections and answers follow a script.

    Args:
        clock: Advances while a connection is silent.
        text: The whole log of the job.
        connections: The pieces that each yields; every connection starts with the log's start.
        silent_for: Seconds without output on a last connection before the job ends.
    """

    def __init__(
        self, clock: Clock, text: str, connections: list[list[str]], silent_for: float = 0.0
    ) -> None:
        super().__init__(Cluster(address=ADDRESS))
        self._clock = clock
        self._text = text
        self._connections = connections
        self._silent_for = silent_for
        self.ends_at: float | None = None
        #: The attempt once it has ended.
        self.ended = attempt("job", SUCCEEDED)
        #: Raised by every call until a time.
        self.error: ServiceUnreachable | JobNotFound | None = None
        self.error_until = 0.0
        self.answers: list[Attempt] = []

    def _check(self) -> None:
        if self.error is not None and self._clock.now < self.error_until:
            raise self.error

    @property
    def _has_ended(self) -> bool:
        if self._connections:
            return False
        return self.ends_at is None or self._clock.now >= self.ends_at

    def get_attempt(self, submission_id: str) -> Attempt:
        self._check()
        state = self.ended.ray_state if self._has_ended else RUNNING
        self.answers.append(replace(self.ended, ray_state=state))
        return self.answers[-1]

    def get_log(self, submission_id: str, *, timeout: float = 30.0) -> str:
        self._check()
        return self._text

    def tail_log(self, submission_id: str) -> Iterator[str]:
        if self._connections:
            for piece in self._connections.pop(0):
                if not piece:
                    self._clock.sleep(1.0)
                yield piece
            if not self._connections and self._silent_for:
                self.ends_at = self._clock.now + self._silent_for
            return
        for _ in range(100):
            self._clock.sleep(1.0)
            yield ""
        pytest.fail("the state of the job is not checked")


@dataclass(frozen=True)
class Answer:
    """The answer of a server on loopback."""

    code: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A request that a server on loopback received."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: str


@dataclass
class Site:
    """A server on loopback.

    Attributes:
        address: Its URL.
        answers: By path; other paths are answered with 404.
        asked: The requests so far.
    """

    address: str
    answers: dict[str, Answer]
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def site(answers: Mapping[str, Answer] | None = None, port: int = 0) -> Iterator[Site]:
    """Run an HTTP server on a port of loopback, by default a free one."""

    class Handler(BaseHTTPRequestHandler):
        def _respond(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length).decode(errors="replace")
            found.asked.append(Asked(self.command, self.path, dict(self.headers), body))
            answer = found.answers.get(self.path, Answer(404, "nothing here"))
            content = answer.body.encode()
            self.send_response(answer.code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = _respond  # noqa: N815 - names of the base class

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        found = Site(f"http://127.0.0.1:{server.server_port}", dict(answers or {}))
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def raw_socket_server(serves: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve each connection to a port of loopback with a function, and yield the URL."""
    listening = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                try:
                    serves(connection)
                except OSError:
                    continue

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def free_port() -> int:
    """Return a port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
