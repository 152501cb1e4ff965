"""Client of Ray's job server: every call has a timeout, and every failure is one line.

Ray's own client takes a second to import, so only submissions and followed logs use it.
"""

import asyncio
import contextlib
import json
import logging
import os
import queue
import re
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from sumgrad.jobs.config.clusters import TOKEN_PATH, Cluster, cluster_option
from sumgrad.jobs.errors import ClusterConfigError, JobNotFound, ServiceUnreachable
from sumgrad.jobs.service.states import RAY_STATES, Attempt
from sumgrad.jobs.support.http import RequestFailed, Response, send_request
from sumgrad.jobs.support.text import one_line
from sumgrad.jobs.support.threads import run_in_thread
from sumgrad.model.errors import SumgradError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

T = TypeVar("T")
#: Seconds for the first request, which shows whether a Ray dashboard answers, and for the others.
PROBE_TIMEOUT_S, CALL_TIMEOUT_S = 5.0, 30.0
_JOBS = "/api/jobs/"
_MAX_MESSAGE = 300
#: The last second of the year 9999, after which `datetime` ends.
_MAX_TIME_S = 253_370_764_800
#: Ray's client prefers this variable to the address that it is given.
_ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
_environment_lock = threading.Lock()
#: The text of an error of Ray's client when the server answers 401 or 403.
_UNAUTHORIZED = re.compile(r"status code (401|403)\b|\b(401|403) Client Error|nauthorized")
_TOKEN_HINT = (
    f"name the file of the cluster's token in {TOKEN_PATH}, or with "
    "sumgrad cluster add NAME URL --token-file FILE"
)


class RayJobsClient:
    """Client of a cluster's job server.

    Args:
        cluster: Its address and where its token is.

    Raises:
        ClusterConfigError: The cluster's token or its certificates cannot be read.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._token = cluster.token()
        self._sdk: JobSubmissionClient | None = None
        #: Whether a Ray dashboard has answered at the address.
        self._is_dashboard = False
        if cluster.ca_file is not None:
            try:
                ssl.create_default_context(cafile=cluster.ca_file)
            except OSError as error:
                raise ClusterConfigError(
                    f"{cluster.ca_file} (ca_file) cannot be used: {error.strerror or error}"
                ) from None

    def ray_version(self) -> str:
        """Return the cluster's version of Ray; this first request fails within seconds.

        Raises:
            ServiceUnreachable: No server answers, it is no Ray dashboard, or it refuses the token.
        """
        found = self._send("GET", "/api/version", PROBE_TIMEOUT_S)
        version = found.get("ray_version") if isinstance(found, dict) else None
        if not isinstance(version, str):
            raise self._not_a_dashboard()
        self._is_dashboard = True
        return version

    def get_attempt(self, submission_id: str) -> Attempt:
        """Return an attempt.

        Raises:
            JobNotFound: Ray does not know it.
            ServiceUnreachable: The cluster does not answer.
        """
        found = self._call("GET", _path(submission_id))
        return self._parse(lambda: _parse_attempt(found))

    def list_attempts(self) -> list[Attempt]:
        """Return all attempts that Ray knows, the oldest first, also those of other programs.

        Raises:
            ServiceUnreachable: The cluster does not answer.
        """
        found = self._call("GET", _JOBS)
        # Drivers that were not submitted have no submission id.
        attempts = self._parse(
            lambda: [_parse_attempt(each) for each in found if each["submission_id"]]
        )
        return sorted(attempts, key=lambda attempt: attempt.start_time or 0.0)

    def stop(self, submission_id: str) -> None:
        """Ask an attempt to end: Ray sends SIGTERM at once and SIGKILL later."""
        self._call("POST", f"{_path(submission_id)}/stop")

    def delete(self, submission_id: str) -> None:
        """Delete an attempt that has ended."""
        self._call("DELETE", _path(submission_id))

    def get_log(self, submission_id: str, *, timeout: float = CALL_TIMEOUT_S) -> str:
        """Return what an attempt has printed so far."""
        found = self._call("GET", f"{_path(submission_id)}/logs", timeout)
        text = found.get("logs") if isinstance(found, dict) else None
        return text if isinstance(text, str) else ""

    def tail_log(self, submission_id: str, keep_going: Callable[[], bool]) -> Iterator[str]:
        """Yield what an attempt prints, from its start, until the connection ends.

        The attempt may still run when the connection ends: `get_attempt` knows.

        Args:
            submission_id: Of the attempt.
            keep_going: Called about once a second; False ends the iteration.

        Yields:
            Pieces of text, and an empty one after each second without any.
        """
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        async def read(sdk: "JobSubmissionClient") -> None:
            async for piece in sdk.tail_job_logs(submission_id):
                pieces.put(piece)

        def run() -> None:
            # get_attempt reports every problem better than Ray's client does here.
            with contextlib.suppress(Exception):
                asyncio.run(read(self._connect()))
            pieces.put(None)

        threading.Thread(target=run, name="tail-log", daemon=True).start()
        while keep_going():
            try:
                piece = pieces.get(timeout=1.0)
            except queue.Empty:
                yield ""
                continue
            if piece is None:
                return
            yield piece

    def submit(
        self,
        submission_id: str,
        entrypoint: str,
        runtime_env: Mapping[str, Any],
        metadata: Mapping[str, str],
        *,
        timeout: float = CALL_TIMEOUT_S,
    ) -> None:
        """Submit a command to the cluster, and upload the folders that ``runtime_env`` names.

        Raises:
            ServiceUnreachable: The cluster has not accepted it.
        """

        def submit() -> None:
            self._connect().submit_job(
                entrypoint=entrypoint,
                submission_id=submission_id,
                runtime_env=dict(runtime_env),
                metadata=dict(metadata),
            )

        # Ray's client has no timeouts.
        submitted = run_in_thread("ray-jobs", submit)
        try:
            submitted.result(timeout)
        except TimeoutError:
            raise self._unreachable(f"no answer in {timeout:g} s") from None
        except SumgradError:
            raise
        except Exception as error:  # Ray's client passes on errors of many libraries
            raise self._explain(error) from error

    def _connect(self) -> "JobSubmissionClient":
        """Return Ray's client."""
        if self._sdk is None:
            # Ray's client would wait forever for a host that does not answer.
            self.ray_version()
            from ray.job_submission import JobSubmissionClient

            for name in ("dashboard_sdk", "job.sdk"):
                logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.ERROR)
            logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
            with _address_in_environment(self.cluster.address):
                self._sdk = JobSubmissionClient(
                    self.cluster.address,
                    headers={"Authorization": f"Bearer {self._token}"} if self._token else None,
                    verify=str(self.cluster.ca_file) if self.cluster.ca_file else True,
                )
        return self._sdk

    def _call(self, method: str, path: str, timeout: float = CALL_TIMEOUT_S) -> Any:
        """Send a request to a server that is known to be a Ray dashboard."""
        if not self._is_dashboard:
            self.ray_version()
        return self._send(method, path, timeout)

    def _send(self, method: str, path: str, timeout: float) -> Any:
        """Send a request and return the JSON of the answer."""
        try:
            response = send_request(
                method,
                self.cluster.address + path,
                timeout=timeout,
                token=self._token,
                ca_file=self.cluster.ca_file,
            )
        except RequestFailed as error:
            raise self._unreachable(str(error)) from None
        if response.status >= 400:
            raise self._refusal(response, path)
        try:
            return json.loads(response.body)
        except (ValueError, RecursionError):
            raise self._not_a_dashboard() from None

    def _parse(self, parse: Callable[[], T]) -> T:
        """Return what a parser makes of an answer, or raise that the answer is not Ray's."""
        try:
            return parse()
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
            raise ServiceUnreachable(
                f"the cluster at {self.cluster.address} describes jobs in an unknown format",
                hint="'sumgrad doctor' compares its version of Ray with the one installed here",
            ) from None

    def _refusal(self, response: Response, path: str) -> ServiceUnreachable | JobNotFound:
        """Return the error for an HTTP status of 400 and more."""
        text = response.text.strip()
        if response.status in (401, 403):
            return self._unauthorized()
        if response.status == 404 and "does not exist" in text:
            return JobNotFound("the cluster knows no such job")
        if self._is_dashboard and text and not text.startswith("<"):
            return self._server_error(text)
        return ServiceUnreachable(
            f"the cluster at {self.cluster.address} answers {response.status} to {path}",
            hint="is it Ray's dashboard? Its port is often 8265",
        )

    def _explain(self, error: Exception) -> ServiceUnreachable:
        """Return the error for an exception of Ray's client."""
        text = one_line(str(error))
        if type(error).__name__ == "AuthenticationError" or _UNAUTHORIZED.search(text):
            return self._unauthorized()
        if isinstance(error, OSError):
            return self._unreachable(text)
        return self._server_error(str(error))

    def _unreachable(self, reason: str) -> ServiceUnreachable:
        return ServiceUnreachable(
            f"no cluster answers at {self.cluster.address}: {reason}",
            hint=f"{doctor_hint(self.cluster)}'sumgrad cluster up' starts one on this machine",
        )

    def _not_a_dashboard(self) -> ServiceUnreachable:
        return ServiceUnreachable(
            f"the server at {self.cluster.address} is no Ray dashboard",
            hint="the dashboard's port is often 8265",
        )

    def _unauthorized(self) -> ServiceUnreachable:
        problem = "refuses the token" if self._token else "requires a token, and none is known here"
        return ServiceUnreachable(
            f"the cluster at {self.cluster.address} {problem}", hint=_TOKEN_HINT
        )

    def _server_error(self, text: str) -> ServiceUnreachable:
        if "Traceback (most recent call last)" in text:
            # The last line of a traceback names the error.
            text = next(line for line in reversed(text.splitlines()) if line.strip(" .\n"))
        return ServiceUnreachable(
            f"the cluster at {self.cluster.address} answers: {one_line(text, _MAX_MESSAGE)}"
        )


def doctor_hint(cluster: Cluster) -> str:
    """Return the start of the hint for an unreachable cluster; `sumgrad doctor` omits it."""
    return f"'sumgrad doctor{cluster_option(cluster)}' looks closer; "


@contextlib.contextmanager
def _address_in_environment(address: str) -> Iterator[None]:
    """Set the variable that Ray's client prefers to the address that it is given."""
    with _environment_lock:
        before = os.environ.get(_ADDRESS_VARIABLE)
        os.environ[_ADDRESS_VARIABLE] = address
        try:
            yield
        finally:
            if before is None:
                del os.environ[_ADDRESS_VARIABLE]
            else:
                os.environ[_ADDRESS_VARIABLE] = before


def _path(submission_id: str) -> str:
    """Return the path of an attempt; its id may contain any characters."""
    return _JOBS + urllib.parse.quote(submission_id, safe="")


def _parse_attempt(details: Mapping[str, Any]) -> Attempt:
    """Return an attempt from Ray's answer; raise what `RayJobsClient._parse` expects."""
    if details["status"] not in RAY_STATES:
        raise ValueError(details["status"])
    code = details.get("driver_exit_code")
    # Other programs choose the texts of their jobs, and those may contain control sequences.
    metadata = {
        str(key): one_line(str(text)) for key, text in (details.get("metadata") or {}).items()
    }
    return Attempt(
        submission_id=one_line(str(details["submission_id"] or "")),
        state=str(details["status"]),
        message=str(details.get("message") or ""),
        exit_code=None if code is None else int(code),
        start_time=_parse_time(details.get("start_time")),
        end_time=_parse_time(details.get("end_time")),
        metadata=metadata,
    )


def _parse_time(milliseconds: Any) -> float | None:
    """Return a time in seconds that `datetime` can represent."""
    if not milliseconds:
        return None
    seconds = float(milliseconds) / 1000
    if not 0 <= seconds < _MAX_TIME_S:
        raise ValueError(milliseconds)
    return seconds
