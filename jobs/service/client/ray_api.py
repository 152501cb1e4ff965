"""Ray's job server, as far as we use it: every call has a deadline, every failure one line.

Ray's own client takes a second to be imported, so only uploads and logs that are followed are its.
"""

import asyncio
import contextlib
import http.client
import json
import os
import queue
import re
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from sumgrad.jobs.config.clusters import TOKEN_PATH, Cluster
from sumgrad.jobs.errors import ClusterConfigError, JobNotFound, ServiceUnreachable
from sumgrad.jobs.runs.record import in_one_line
from sumgrad.jobs.service.client.typed import cluster_option
from sumgrad.jobs.support.threads import run_in_thread
from sumgrad.model.errors import SumgradError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

T = TypeVar("T")
#: Whoever does not answer a small question for so long is away, in seconds.
PROBE_S = 5.0
#: And for any other call; an upload has longer.
CALL_S = 30.0
#: Names of Ray's states.
PENDING, RUNNING, STOPPED = "PENDING", "RUNNING", "STOPPED"
SUCCEEDED, FAILED = "SUCCEEDED", "FAILED"
OVER = frozenset({STOPPED, SUCCEEDED, FAILED})
_STATES = OVER | {PENDING, RUNNING}
#: Of an answer that is not a log, or the list of very many jobs, nobody needs more.
_MOST_BYTES = 1 << 28
_JOBS = "/api/jobs/"
#: The year 9999 in seconds since 1970, which is the last one that has a date.
_END_OF_TIME_S = 253_370_764_800
#: Before any other address, also the one that it is given, Ray's client takes this one.
_ADDRESS = "RAY_API_SERVER_ADDRESS"
#: Guards that variable while it is changed.
_ENVIRONMENT = threading.Lock()
#: How Ray's client tells of HTTP's codes for it.
_REFUSED = re.compile(r"status code (401|403)\b|\b(401|403) Client Error|nauthorized")
_NO_TOKEN_HINT = (
    f"the cluster's token goes into {TOKEN_PATH} (the path of a file), or into the context: "
    "sumgrad cluster add NAME URL --token-file FILE"
)


@dataclass(frozen=True)
class RayServerInfo:
    """What a job server says of itself.

    Attributes:
        ray_version: Of the cluster.
        session: Name of the cluster's session: another one after each start.
    """

    ray_version: str
    session: str


@dataclass(frozen=True)
class Attempt:
    """One submission to Ray, as Ray sees it.

    Attributes:
        submission_id: Ray's name of it.
        state: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        message: Ray's words.
        error: Ray's kind of error, if there was one.
        exit_code: Of the job's process, where it has ended by itself.
        began: When it was submitted, in seconds since 1970.
        ended: When it was over, or None.
        metadata: As it was given.
    """

    submission_id: str
    state: str
    message: str
    error: str | None
    exit_code: int | None
    start_time: float | None
    end_time: float | None
    metadata: Mapping[str, str]

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.state in OVER


class RayJobsClient:
    """The job server of a cluster.

    Args:
        cluster: Where it is.

    Raises:
        ClusterConfigError: The cluster's token cannot be read.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        token = cluster.token()
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._ca_file = cluster.ca_file
        self._client: JobSubmissionClient | None = None
        #: Whether it is known that a dashboard of Ray's is there.
        self._is_met = False

    def server_info(self) -> RayServerInfo:
        """Ask who is there; the first question to any cluster, answered within seconds.

        Raises:
            ServiceUnreachable: Nobody, nobody who takes jobs, or somebody who refuses our token.
        """
        try:
            # Somebody who sends a byte now and then keeps every other deadline.
            facts = self._in_time("GET", "/api/version", 2 * PROBE_S)
            server = RayServerInfo(str(facts["ray_version"]), str(facts["session_name"]))
        except (KeyError, TypeError):
            raise self._no_dashboard() from None
        self._is_met = True
        return server

    def _no_dashboard(self) -> ServiceUnreachable:
        return ServiceUnreachable(
            f"what answers at {self.cluster.address} is no Ray dashboard",
            hint="its port is often 8265",
        )

    def _asked(self, method: str, path: str, seconds: float = CALL_S) -> Any:
        """What the server answers, as JSON."""
        if not self._is_met:
            # Who is away, or somebody else, is found out within seconds.
            self.server_info()
        return self._in_time(method, path, seconds)

    def _in_time(self, method: str, path: str, seconds: float) -> Any:
        answer = run_in_thread("ray-jobs", lambda: self._read(method, path, seconds))
        try:
            return json.loads(answer.result(seconds))
        except TimeoutError:
            raise self._away(f"no answer in {seconds:g} s") from None
        except (ValueError, RecursionError):
            raise self._no_dashboard() from None

    def _read(self, method: str, path: str, seconds: float) -> bytes:
        request = urllib.request.Request(self.cluster.address + path, method=method)  # noqa: S310 - http(s) only, see `normalize_address`
        for name, value in self._headers.items():
            # Whoever we are sent on to has no right to our token.
            request.add_unredirected_header(name, value)
        patience = max(PROBE_S, seconds) if self._is_met else PROBE_S
        context = self._trusted()
        try:
            with urllib.request.urlopen(request, timeout=patience, context=context) as answer:  # noqa: S310
                content: bytes = answer.read(_MOST_BYTES)
        except urllib.error.HTTPError as error:
            raise self._refusal(error, path) from None
        except (OSError, ValueError) as error:
            raise self._away(str(getattr(error, "reason", error))) from None
        except http.client.HTTPException:
            raise self._away("what answers there does not speak HTTP") from None
        if len(content) == _MOST_BYTES:
            raise self._said(f"more than {_MOST_BYTES >> 20} MiB to {path}")
        return content

    def _refusal(
        self, error: urllib.error.HTTPError, path: str
    ) -> ServiceUnreachable | JobNotFound:
        """What a code of HTTP's means, and what was said with it."""
        text = ""
        with error, contextlib.suppress(OSError, http.client.HTTPException):
            text = error.read(1 << 16).decode(errors="replace").strip()
        if error.code in (401, 403):
            return self._refused()
        if error.code == 404 and "does not exist" in text:
            return JobNotFound("the cluster knows no such job")
        if self._is_met and text and not text.startswith("<"):
            return self._said(text)
        return ServiceUnreachable(
            f"the cluster at {self.cluster.address} answers {error.code} to {path}",
            hint="is it Ray's dashboard? Its port is often 8265",
        )

    def _said(self, text: str) -> ServiceUnreachable:
        if "Traceback (most recent call last)" in text:
            # One of Ray's own: of its many lines the last one says what went wrong.
            text = next(line for line in reversed(text.splitlines()) if line.strip(" .\n"))
        said = " ".join(text.split())[:300]
        return ServiceUnreachable(f"the cluster at {self.cluster.address} answers: {said}")

    def _trusted(self) -> ssl.SSLContext | None:
        if self._ca_file is None:
            return None
        try:
            return ssl.create_default_context(cafile=self._ca_file)
        except OSError as error:
            why = error.strerror or str(error)
            raise ClusterConfigError(f"{self._ca_file} (ca_file) cannot be used: {why}") from None

    def _refused(self) -> ServiceUnreachable:
        what = "refuses our token" if self._headers else "asks for a token, and none was given"
        return ServiceUnreachable(
            f"the cluster at {self.cluster.address} {what}", hint=_NO_TOKEN_HINT
        )

    def _away(self, why: str) -> ServiceUnreachable:
        return ServiceUnreachable(
            f"no cluster answers at {self.cluster.address}: {why}",
            hint=f"{doctor_hint(self.cluster)}'sumgrad cluster up' starts one on this machine",
        )

    def submit(
        self,
        submission_id: str,
        entrypoint: str,
        runtime_env: Mapping[str, Any],
        metadata: Mapping[str, str],
        *,
        seconds: float = CALL_S,
    ) -> None:
        """Have the cluster run a command. What ``runtime_env`` names is uploaded.

        Raises:
            ServiceUnreachable: The cluster has not taken it.
        """
        self._ask(
            lambda client: client.submit_job(
                entrypoint=entrypoint,
                submission_id=submission_id,
                runtime_env=dict(runtime_env),
                metadata=dict(metadata),
            ),
            seconds,
        )

    def attempt(self, submission_id: str) -> Attempt:
        """What Ray knows of a submission.

        Raises:
            JobNotFound: Nothing.
            ServiceUnreachable: The cluster does not answer.
        """
        answer = self._asked("GET", _path(submission_id))
        return self._understood(lambda: _attempt(answer))

    def attempts(self) -> list[Attempt]:
        """All submissions that Ray knows of, the oldest first.

        Raises:
            ServiceUnreachable: The cluster does not answer.
        """
        answer = self._asked("GET", _JOBS)
        # The others are drivers that nobody has submitted.
        found = self._understood(lambda: [_attempt(each) for each in answer if _name(each)])
        return sorted(found, key=lambda attempt: attempt.start_time or 0.0)

    def _understood(self, read: Callable[[], T]) -> T:
        """What an answer says, read in a way that raises where it is none of Ray's."""
        try:
            return read()
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
            raise ServiceUnreachable(
                f"the cluster at {self.cluster.address} tells of jobs in a way that is not "
                "understood",
                hint="is its Ray a version that this sumgrad knows? 'sumgrad doctor' compares them",
            ) from None

    def stop(self, submission_id: str) -> None:
        """Ask a submission to end: SIGTERM now, SIGKILL later."""
        self._asked("POST", f"{_path(submission_id)}/stop")

    def delete(self, submission_id: str) -> None:
        """Have Ray forget a submission that has ended."""
        self._asked("DELETE", _path(submission_id))

    def log(self, submission_id: str, *, seconds: float = CALL_S) -> str:
        """What a submission has printed so far."""
        answer = self._asked("GET", f"{_path(submission_id)}/logs", seconds)
        text = answer.get("logs") if isinstance(answer, dict) else None
        return text if isinstance(text, str) else ""

    def tail(self, submission_id: str, is_wanted: Callable[[], bool]) -> Iterator[str]:
        """What a submission prints, from its beginning on, until the connection ends.

        That the connection ends says nothing about the job: ask `attempt`.

        Args:
            submission_id: Which.
            is_wanted: Asked about once a second; False ends it.

        Yields:
            Pieces of text. An empty one about every second, so that whoever reads can do something
            else in between.
        """
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        async def read(client: "JobSubmissionClient") -> None:
            async for piece in client.tail_job_logs(submission_id):
                pieces.put(piece)

        def run() -> None:
            # Whatever goes wrong here, `attempt` tells it better.
            with contextlib.suppress(Exception):
                asyncio.run(read(self._connected()))
            pieces.put(None)

        threading.Thread(target=run, name="tail", daemon=True).start()
        while is_wanted():
            try:
                piece = pieces.get(timeout=1.0)
            except queue.Empty:
                yield ""
                continue
            if piece is None:
                return
            yield piece

    def _ask(self, question: "Callable[[JobSubmissionClient], T]", seconds: float = CALL_S) -> T:
        """The answer of Ray's client, which itself would wait for ever."""
        answer: Future[T] = run_in_thread("ray-jobs", lambda: question(self._connected()))
        try:
            return answer.result(seconds)
        except TimeoutError:
            raise self._away(f"no answer in {seconds:g} s") from None
        except SumgradError:
            raise
        except Exception as error:  # Ray's client raises of every kind, requests' among them
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> ServiceUnreachable:
        text = " ".join(str(error).split())
        if type(error).__name__ == "AuthenticationError" or _REFUSED.search(text):
            return self._refused()
        if isinstance(error, OSError):
            return self._away(text)
        return self._said(str(error))

    def _connected(self) -> "JobSubmissionClient":
        if self._client is None:
            # Ray's client would wait for ever for a host that says nothing.
            self.server_info()
            from ray.job_submission import JobSubmissionClient

            _quiet_ray()

            with _this_address(self.cluster.address):
                self._client = JobSubmissionClient(
                    self.cluster.address,
                    headers=dict(self._headers),
                    verify=str(self._ca_file) if self._ca_file else True,
                )
        return self._client


def doctor_hint(cluster: Cluster) -> str:
    """How the hint about a cluster that is away begins, for all but who looks closer already."""
    return f"'sumgrad doctor{cluster_option(cluster)}' looks closer; "


@contextlib.contextmanager
def _this_address(address: str) -> Iterator[None]:
    """Have Ray's client take this address, in the place of which it prefers its variables'."""
    with _ENVIRONMENT:
        before = os.environ.get(_ADDRESS)
        os.environ[_ADDRESS] = address
        try:
            yield
        finally:
            if before is None:
                del os.environ[_ADDRESS]
            else:
                os.environ[_ADDRESS] = before


def _quiet_ray() -> None:
    """Have Ray's client not tell of every upload and connection; it says so when it is imported."""
    import logging

    for name in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.ERROR)
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)


def _path(submission_id: str) -> str:
    """Where a submission is. It may be called by any name, and may not lead elsewhere."""
    return _JOBS + urllib.parse.quote(submission_id, safe="")


def _attempt(details: Mapping[str, Any]) -> Attempt:
    """An attempt as Ray's answer has it; raises what `RayJobsClient._understood` expects."""
    if details["status"] not in _STATES:
        raise ValueError(details["status"])
    code = details.get("driver_exit_code")
    given = details.get("metadata") or {}
    return Attempt(
        submission_id=_name(details),
        state=str(details["status"]),
        message=str(details.get("message") or ""),
        error=details.get("error_type"),
        exit_code=None if code is None else int(code),
        start_time=_seconds(details.get("start_time")),
        end_time=_seconds(details.get("end_time")),
        metadata={str(key): in_one_line(str(text)) for key, text in given.items()},
    )


def _name(details: Mapping[str, Any]) -> str:
    """A submission's; whoever chose it may have thought of the terminals of others."""
    return in_one_line(str(details["submission_id"] or ""))


def _seconds(milliseconds: Any) -> float | None:
    """A time that a calendar has."""
    if not milliseconds:
        return None
    seconds = float(milliseconds) / 1000
    if not 0 <= seconds < _END_OF_TIME_S:
        raise ValueError(milliseconds)
    return seconds
