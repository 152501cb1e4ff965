"""Stand-ins for a cluster: a clock, a job server in memory, and servers on loopback."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.errors import JobNotFound, ServiceUnreachable
from sumgrad.jobs.service.client.preflight import _MARK
from sumgrad.jobs.service.client.ray_api import (
    PENDING,
    RUNNING,
    SUCCEEDED,
    Attempt,
    RayJobsClient,
    RayServerInfo,
)
from sumgrad.jobs.service.ids import ATTEMPT_KEY, JOB_KEY, NAME_KEY
from sumgrad.jobs.service.versions import Versions

ADDRESS = "http://head:8265"


class Clock:
    """Time that passes only where somebody sleeps, or says so."""

    def __init__(self) -> None:
        self.now = 1000.0

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
    job_id: str | None = None,
) -> Attempt:
    """An attempt of one of our jobs."""
    return Attempt(
        submission_id=submission_id,
        state=state,
        message=message,
        error=None,
        exit_code=exit_code,
        start_time=start_time,
        end_time=None,
        metadata={
            JOB_KEY: job_id or submission_id.partition("~")[0],
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
    seconds: float

    @property
    def request(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.files["job.json"])
        return value


@dataclass
class Memory:
    """What a `FakeRayJobsClient` has and does."""

    attempts: dict[str, Attempt] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    versions: Versions | None = None
    answer: str | None = None
    refuses: Callable[[str], None] = lambda _: None
    is_away: bool = False


class FakeRayJobsClient(RayJobsClient):
    """A job server without a cluster; it takes jobs, and answers probes."""

    def __init__(self, *attempts: Attempt, cluster: Cluster | None = None) -> None:
        super().__init__(cluster or Cluster(ADDRESS))
        self.memory = Memory({each.submission_id: each for each in attempts})

    def _call(self, what: str) -> None:
        self.memory.calls.append(what)
        if self.memory.is_away:
            raise ServiceUnreachable(f"no cluster answers at {self.cluster.address}")

    def server_info(self) -> RayServerInfo:
        self._call("describe")
        return RayServerInfo("2.60.0", "session_1")

    def submit(
        self,
        submission_id: str,
        entrypoint: str,
        runtime_env: Mapping[str, Any],
        metadata: Mapping[str, str],
        *,
        seconds: float = 30.0,
    ) -> None:
        self._call(f"submit {submission_id}")
        if submission_id.startswith("sumgrad-probe-"):
            versions = self.memory.versions or Versions.here()
            text = self.memory.answer or _MARK + json.dumps(versions.as_json())
            self.memory.logs[submission_id] = f"a line before\n{text}\n"
            self.memory.attempts[submission_id] = replace(
                attempt(submission_id, SUCCEEDED), metadata={}
            )
            return
        self.memory.refuses(submission_id)
        folder = runtime_env.get("working_dir")
        files = {}
        if folder is not None:
            files = {
                file.relative_to(folder).as_posix(): file.read_bytes()
                for file in Path(folder).rglob("*")
                if file.is_file()
            }
        modules = tuple(Path(module).name for module in runtime_env.get("py_modules", ()))
        sent = Sent(submission_id, entrypoint, files, modules, dict(metadata), seconds)
        self.memory.sent.append(sent)
        self.memory.attempts[submission_id] = replace(
            attempt(submission_id, PENDING), metadata=dict(metadata)
        )

    def attempt(self, submission_id: str) -> Attempt:
        self._call(f"attempt {submission_id}")
        if submission_id not in self.memory.attempts:
            raise JobNotFound("the cluster knows no such job")
        return self.memory.attempts[submission_id]

    def attempts(self) -> list[Attempt]:
        self._call("attempts")
        return list(self.memory.attempts.values())

    def stop(self, submission_id: str) -> None:
        self._call(f"stop {submission_id}")

    def delete(self, submission_id: str) -> None:
        self._call(f"delete {submission_id}")
        del self.memory.attempts[submission_id]

    def log(self, submission_id: str, *, seconds: float = 30.0) -> str:
        self._call(f"log {submission_id}")
        return self.memory.logs.get(submission_id, "")

    def tail(self, submission_id: str, is_wanted: Callable[[], bool]) -> Iterator[str]:
        self._call(f"tail {submission_id}")
        yield from self.memory.logs.get(submission_id, "").splitlines(keepends=True)


class ScriptedRayJobsClient(RayJobsClient):
    """A job server whose connections and answers follow a script.

    Args:
        clock: Passes while a connection is silent.
        text: All that the job prints.
        connections: The pieces of each; every connection begins with the first character.
        silent_for: Seconds that a further connection says nothing before the job ends.
    """

    def __init__(
        self, clock: Clock, text: str, connections: list[list[str]], silent_for: float = 0.0
    ) -> None:
        super().__init__(Cluster(ADDRESS))
        self._clock = clock
        self._text = text
        self._connections = connections
        self._silent_for = silent_for
        self._ends_at: float | None = None
        self.ended = attempt("job", SUCCEEDED)
        #: Raised in the place of an answer, until a time.
        self.away: ServiceUnreachable | JobNotFound | None = None
        self.away_until = 0.0
        self.asked: list[Attempt] = []

    def _answer(self) -> None:
        if self.away is not None and self._clock.now < self.away_until:
            raise self.away

    @property
    def _is_over(self) -> bool:
        if self._connections:
            return False
        return self._ends_at is None or self._clock.now >= self._ends_at

    def attempt(self, submission_id: str) -> Attempt:
        self._answer()
        state = self.ended.state if self._is_over else RUNNING
        self.asked.append(replace(self.ended, state=state))
        return self.asked[-1]

    def log(self, submission_id: str, *, seconds: float = 30.0) -> str:
        self._answer()
        return self._text

    def tail(self, submission_id: str, is_wanted: Callable[[], bool]) -> Iterator[str]:
        if self._connections:
            for piece in self._connections.pop(0):
                if not piece:
                    self._clock.sleep(1.0)
                if not is_wanted():
                    return
                yield piece
            if not self._connections and self._silent_for:
                self._ends_at = self._clock.now + self._silent_for
            return
        silent = 0
        while is_wanted():
            silent += 1
            assert silent < 100, "nobody looks whether the job is over"
            self._clock.sleep(1.0)
            yield ""


@dataclass(frozen=True)
class Answer:
    """What a server on loopback says."""

    code: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What a server on loopback was asked."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: str


@dataclass
class Site:
    """A server on loopback.

    Attributes:
        address: Where.
        answers: By path; a path without an answer is answered with 404.
        asked: So far.
    """

    address: str
    answers: dict[str, Answer]
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def site(answers: Mapping[str, Answer] | None = None, port: int = 0) -> Iterator[Site]:
    """A real HTTP server on a port of loopback, by default any that is free."""

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

        do_GET = do_POST = do_PUT = do_DELETE = _respond  # noqa: N815 - as they are called

        def log_message(self, *_: object) -> None:
            """Say nothing."""

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
    """A port of loopback where a connection is served in any way; gives its address."""
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
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
