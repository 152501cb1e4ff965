"""Client of Ray's job server: every call has a timeout, and every failure is one line.

Ray's own client takes a second to import, so only submissions and followed logs use it.
"""

import asyncio
import contextlib
import json
import logging
import os
import queue
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from sumgrad.jobs.config.clusters import TOKEN_PATH, Cluster
from sumgrad.jobs.errors import ClusterConfigError, JobNotFound, ServiceUnreachable
from sumgrad.jobs.service.states import Attempt, Job, group_by_job
from sumgrad.jobs.support.http import RequestFailed, Response, send_request
from sumgrad.jobs.support.text import one_line
from sumgrad.jobs.support.threads import run_in_thread
from sumgrad.model.errors import SumgradError
from sumgrad.model.validation import did_you_mean

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

T = TypeVar("T")
#: Seconds for the first request, which shows whether a Ray dashboard answers, and for the others.
PROBE_TIMEOUT_S, CALL_TIMEOUT_S = 5.0, 30.0
_VERSION, _JOBS = "/api/version", "/api/jobs/"
_MAX_MESSAGE = 300
_MIN_PREFIX = 3  #: Characters of an id that name a job, if its whole id is not given.
_TOKEN_HINT = (
    f"name the file of the cluster's token in {TOKEN_PATH}, or with "
    "sumgrad cluster add NAME URL --token-file FILE"
)


class RayJobsClient:
    """Client of a cluster's job server.

    All methods raise `ServiceUnreachable` if no server answers, if it is no Ray dashboard, or if
    it refuses the token; those about an attempt raise `JobNotFound` if Ray does not know it. The
    constructor raises `ClusterConfigError` if the token or the certificates cannot be read.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._token = cluster.token()
        self._sdk: JobSubmissionClient | None = None
        self._is_dashboard = False  #: Whether a Ray dashboard has answered at the address.
        if cluster.ca_file is not None:
            try:
                ssl.create_default_context(cafile=cluster.ca_file)
            except OSError as error:
                problem = f"{cluster.ca_file} (ca_file) cannot be used: {error.strerror or error}"
                raise ClusterConfigError(problem) from None

    def ray_version(self) -> str:
        """Return the cluster's version of Ray; this first request fails within seconds."""
        found = self._send("GET", _VERSION, PROBE_TIMEOUT_S)
        version = found.get("ray_version") if isinstance(found, dict) else None
        if not isinstance(version, str):
            raise self._not_a_dashboard()
        self._is_dashboard = True
        return version

    def requires_token(self) -> bool:
        """Return whether the dashboard refuses clients without a token."""
        url, ca_file = self.cluster.address + _VERSION, self.cluster.ca_file
        try:
            return send_request("GET", url, timeout=PROBE_TIMEOUT_S, ca_file=ca_file).status >= 400
        except RequestFailed:
            return True

    def get_attempt(self, submission_id: str) -> Attempt:
        """Return an attempt."""
        found = self._call("GET", _path(submission_id))
        return self._parse(lambda: Attempt.from_ray(found))

    def list_attempts(self) -> list[Attempt]:
        """Return all attempts that Ray knows, the oldest first, also those of other programs."""
        found = self._call("GET", _JOBS)
        # Drivers that were not submitted have no submission id.
        attempts = self._parse(
            lambda: [Attempt.from_ray(each) for each in found if each["submission_id"]]
        )
        return sorted(attempts, key=lambda attempt: attempt.start_time or 0.0)

    def list_jobs(self) -> list[Job]:
        """Return the cluster's jobs, the newest first."""
        return group_by_job(self.list_attempts())

    def find_job(self, text: str) -> Job:
        """Return the job with this id, or the only one with this prefix, or raise `JobNotFound`."""
        jobs = {job.job_id: job for job in self.list_jobs()}
        if text in jobs:
            return jobs[text]
        if len(text) < _MIN_PREFIX:
            hint = f"give at least {_MIN_PREFIX} characters of the job's id"
            raise JobNotFound(f"'{text}' is too short to name a job", hint=hint)
        found = sorted(job_id for job_id in jobs if job_id.startswith(text))
        if not found:
            hint = did_you_mean(text, list(jobs)) if jobs else "it has no jobs"
            raise JobNotFound(f"{self.cluster.label} has no job '{text}'", hint=hint)
        if len(found) > 1:
            names = ", ".join(found[:5])
            raise JobNotFound(f"the ids of several jobs start with '{text}': {names}")
        return jobs[found[0]]

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

    def tail_log(self, submission_id: str) -> Iterator[str]:
        """Yield what an attempt prints, from its start, and "" after each second without output.

        The attempt may still run when the connection ends: `get_attempt` knows.
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
        while True:
            try:
                piece = pieces.get(timeout=1.0)
            except queue.Empty:
                piece = ""
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
        """Submit a command to the cluster, and upload the folders that ``runtime_env`` names."""
        # Ray's client has no timeouts. The token was accepted when it connected.
        submitted = run_in_thread(
            "ray-jobs",
            lambda: self._connect().submit_job(
                entrypoint=entrypoint,
                submission_id=submission_id,
                runtime_env=dict(runtime_env),
                metadata=dict(metadata),
            ),
        )
        try:
            submitted.result(timeout)
        except TimeoutError:
            raise self._unreachable(f"no answer in {timeout:g} s") from None
        except OSError as error:
            raise self._unreachable(one_line(str(error))) from error
        except SumgradError:
            raise
        except Exception as error:  # Ray's client passes on errors of many libraries
            raise self._server_error(str(error)) from error

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
            hint = "'sumgrad doctor' compares its version of Ray with the one installed here"
            raise self._error("describes jobs in an unknown format", hint) from None

    def _refusal(self, response: Response, path: str) -> ServiceUnreachable | JobNotFound:
        """Return the error for an HTTP status of 400 and more."""
        text = response.text.strip()
        if response.status in (401, 403):
            missing = "requires a token, and none is known here"
            return self._error("refuses the token" if self._token else missing, _TOKEN_HINT)
        if response.status == 404 and "does not exist" in text:
            return JobNotFound("the cluster knows no such job")
        if self._is_dashboard and text and not text.startswith("<"):
            return self._server_error(text)
        hint = "is it Ray's dashboard? Its port is often 8265"
        return self._error(f"answers {response.status} to {path}", hint)

    def _unreachable(self, reason: str) -> ServiceUnreachable:
        return ServiceUnreachable(
            f"no cluster answers at {self.cluster.address}: {reason}",
            hint=f"{doctor_hint(self.cluster)}'sumgrad cluster up' starts one on this machine",
        )

    def _not_a_dashboard(self) -> ServiceUnreachable:
        return self._error("is no Ray dashboard", "the dashboard's port is often 8265")

    def _server_error(self, text: str) -> ServiceUnreachable:
        if "Traceback (most recent call last)" in text:
            # The last line of a traceback names the error.
            text = next(line for line in reversed(text.splitlines()) if line.strip(" .\n"))
        return self._error(f"answers: {one_line(text, _MAX_MESSAGE)}")

    def _error(self, problem: str, hint: str = "") -> ServiceUnreachable:
        return ServiceUnreachable(f"the cluster at {self.cluster.address} {problem}", hint=hint)


def doctor_hint(cluster: Cluster) -> str:
    """Return the start of the hint for an unreachable cluster; `sumgrad doctor` omits it."""
    return f"'{cluster.command('doctor')}' looks closer; "


@contextlib.contextmanager
def _address_in_environment(address: str) -> Iterator[None]:
    """Set the variable that Ray's client prefers to every other source of an address."""
    name = "RAY_API_SERVER_ADDRESS"
    before = os.environ.pop(name, None)
    os.environ[name] = address
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _path(submission_id: str) -> str:
    """Return the path of an attempt; its id may contain any characters."""
    return _JOBS + urllib.parse.quote(submission_id, safe="")
