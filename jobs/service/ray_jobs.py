"""Ray's job server, as far as we use it: every call has a deadline, every failure one line."""

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
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from jobs.background import in_background
from jobs.errors import ContextError, JobNotFound, ServiceUnreachable
from jobs.service.contexts import TOKEN_PATH, Cluster
from model.errors import SumgradError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

T = TypeVar("T")
#: Whoever does not answer a small question for so long is away, in seconds.
PROBE_S = 5.0
#: And for any other call; an upload has longer.
CALL_S = 30.0
#: Names of Ray's states.
PENDING, RUNNING, STOPPED = "PENDING", "RUNNING", "STOPPED"
SUCCEEDED, FAILED = "SUCCEEDED", "FAILED"
OVER = frozenset({STOPPED, SUCCEEDED, FAILED})
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
class Server:
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
    began: float | None
    ended: float | None
    metadata: Mapping[str, str]

    @property
    def is_over(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.state in OVER


class JobServer:
    """The job server of a cluster.

    Args:
        cluster: Where it is.

    Raises:
        ContextError: The cluster's token cannot be read.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        token = cluster.token()
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._ca_file = cluster.ca_file
        self._client: JobSubmissionClient | None = None

    def describe(self) -> Server:
        """Ask who is there; the first question to any cluster, answered within seconds.

        Raises:
            ServiceUnreachable: Nobody, nobody who takes jobs, or somebody who refuses our token.
        """
        try:
            facts = json.loads(self._in_time("/api/version"))
            return Server(str(facts["ray_version"]), str(facts["session_name"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ServiceUnreachable(
                f"what answers at {self.cluster.address} is no Ray dashboard",
                hint="its port is often 8265",
            ) from None

    def _in_time(self, path: str) -> bytes:
        answer = in_background("ray-jobs", lambda: self._get(path))
        try:
            # Somebody who sends a byte now and then keeps every other deadline.
            return answer.result(2 * PROBE_S)
        except TimeoutError:
            raise self._away(f"no answer in {2 * PROBE_S:g} s") from None

    def _get(self, path: str) -> bytes:
        request = urllib.request.Request(self.cluster.address + path)  # noqa: S310 - http(s) only, see `normal_address`
        for name, value in self._headers.items():
            # Whoever we are sent on to has no right to our token.
            request.add_unredirected_header(name, value)
        context = self._trusted()
        try:
            with urllib.request.urlopen(request, timeout=PROBE_S, context=context) as answer:  # noqa: S310
                content: bytes = answer.read(1 << 20)
                return content
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (401, 403):
                raise self._refused() from None
            raise ServiceUnreachable(
                f"the cluster at {self.cluster.address} answers {error.code} to {path}",
                hint="is it Ray's dashboard? Its port is often 8265",
            ) from None
        except (OSError, ValueError) as error:
            raise self._away(str(getattr(error, "reason", error))) from None
        except http.client.HTTPException:
            raise self._away("what answers there does not speak HTTP") from None

    def _trusted(self) -> ssl.SSLContext | None:
        if self._ca_file is None:
            return None
        try:
            return ssl.create_default_context(cafile=self._ca_file)
        except OSError as error:
            why = error.strerror or str(error)
            raise ContextError(f"{self._ca_file} (ca_file) cannot be used: {why}") from None

    def _refused(self) -> ServiceUnreachable:
        what = "refuses our token" if self._headers else "asks for a token, and none was given"
        return ServiceUnreachable(
            f"the cluster at {self.cluster.address} {what}", hint=_NO_TOKEN_HINT
        )

    def _away(self, why: str) -> ServiceUnreachable:
        return ServiceUnreachable(
            f"no cluster answers at {self.cluster.address}: {why}",
            hint="'sumgrad doctor' looks closer; 'sumgrad cluster up' starts one on this machine",
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
        return _attempt(self._ask(lambda client: client.get_job_info(submission_id)))

    def attempts(self) -> list[Attempt]:
        """All submissions that Ray knows of, the oldest first.

        Raises:
            ServiceUnreachable: The cluster does not answer.
        """
        found = self._ask(lambda client: client.list_jobs())
        ours = [_attempt(details) for details in found if details.submission_id]
        return sorted(ours, key=lambda attempt: attempt.began or 0.0)

    def stop(self, submission_id: str) -> None:
        """Ask a submission to end: SIGTERM now, SIGKILL later."""
        self._ask(lambda client: client.stop_job(submission_id))

    def delete(self, submission_id: str) -> None:
        """Have Ray forget a submission that has ended."""
        self._ask(lambda client: client.delete_job(submission_id))

    def log(self, submission_id: str) -> str:
        """What a submission has printed so far."""
        return str(self._ask(lambda client: client.get_job_logs(submission_id)))

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
        answer: Future[T] = in_background("ray-jobs", lambda: question(self._connected()))
        try:
            return answer.result(seconds)
        except TimeoutError:
            raise self._away(f"no answer in {seconds:g} s") from None
        except SumgradError:
            raise
        except Exception as error:  # Ray's client raises of every kind, requests' among them
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> ServiceUnreachable | JobNotFound:
        text = " ".join(str(error).split())
        if "404" in text and "does not exist" in text:
            return JobNotFound("the cluster knows no such job")
        if type(error).__name__ == "AuthenticationError" or _REFUSED.search(text):
            return self._refused()
        if isinstance(error, OSError):
            return self._away(text)
        if "Traceback (most recent call last)" in text:
            # One of Ray's own: of its many lines the last one says what went wrong.
            text = next(line for line in reversed(str(error).splitlines()) if line.strip(" .\n"))
        return ServiceUnreachable(f"the cluster at {self.cluster.address} answers: {text[:300]}")

    def _connected(self) -> "JobSubmissionClient":
        if self._client is None:
            # Ray's client would wait for ever for a host that says nothing.
            self.describe()
            from ray.job_submission import JobSubmissionClient

            _quiet_ray()

            with _this_address(self.cluster.address):
                self._client = JobSubmissionClient(
                    self.cluster.address,
                    headers=dict(self._headers),
                    verify=str(self._ca_file) if self._ca_file else True,
                )
        return self._client


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


def _attempt(details: "JobDetails") -> Attempt:
    return Attempt(
        submission_id=str(details.submission_id),
        state=str(details.status.value),
        message=str(details.message or ""),
        error=details.error_type,
        exit_code=details.driver_exit_code,
        began=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
        metadata=dict(details.metadata or {}),
    )
