"""Following a job's log, and waiting for a job, until Ray confirms that it has ended."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sumgrad.jobs.config.clusters import Cluster, cluster_option
from sumgrad.jobs.errors import JobLost, JobNotFound, ServiceUnreachable
from sumgrad.jobs.service.client.ray_api import RayJobsClient
from sumgrad.jobs.service.manifest import RESULT_PREFIX
from sumgrad.jobs.service.states import REFUSED, Attempt, exit_code
from sumgrad.jobs.support.polling import wait_until

T = TypeVar("T")
_logger = logging.getLogger(__name__)
#: Seconds for which a job server may be unreachable.
RECONNECT_TIMEOUT_S = 600.0
_INTERVAL_S = 1.0


def wait(
    client: RayJobsClient,
    submission_id: str,
    *,
    timeout: float = math.inf,
    interval: float = _INTERVAL_S,
) -> Attempt | None:
    """Return an attempt when it has ended; None if it has not after ``timeout`` seconds.

    Raises:
        ServiceUnreachable: The cluster has not answered for `RECONNECT_TIMEOUT_S`.
        JobNotFound: The attempt was deleted, or the cluster was restarted.
    """
    server = _PatientClient(client, submission_id)

    def ended() -> Attempt | None:
        attempt = server.attempt()
        return attempt if attempt is not None and attempt.has_ended else None

    return wait_until(ended, timeout, interval=interval)


def follow(client: RayJobsClient, submission_id: str, write: Callable[[str], None]) -> Attempt:
    """Pass on what an attempt prints, each character once and in order, and return how it ended.

    Args:
        client: Of the cluster.
        submission_id: Of the attempt.
        write: Called with each piece of text.

    Raises:
        ServiceUnreachable: The cluster has not answered for `RECONNECT_TIMEOUT_S`.
        JobNotFound: The attempt was deleted, or the cluster was restarted.
    """
    server = _PatientClient(client, submission_id)
    written = 0
    while True:
        # Each connection starts again with the first character of the log.
        position, last_check = 0, time.monotonic()
        has_ended = False
        for piece in client.tail_log(submission_id, lambda: not has_ended):  # noqa: B023
            new = piece[max(0, written - position) :]
            position += len(piece)
            if new:
                write(new)
                written += len(new)
            elif time.monotonic() - last_check > 2 * _INTERVAL_S:
                # A connection may be dead without an error.
                last_check = time.monotonic()
                has_ended = server.insist(server.attempt).has_ended
        # That a connection ends does not show that the job has ended.
        attempt = server.insist(server.attempt)
        if attempt.has_ended:
            if rest := server.insist(server.log)[written:]:
                write(rest)
            return attempt
        time.sleep(_INTERVAL_S)


def follow_job(
    client: RayJobsClient, submission_id: str, write: Callable[[str], None]
) -> tuple[Attempt, dict[str, Any] | None]:
    """Pass on the log of an attempt, and return how the attempt ended and the run's result."""
    log = LogPrinter(write)
    attempt = follow(client, submission_id, log.feed)
    log.close()
    code = exit_code(attempt)
    # The log may start with that of a deleted job which had the same id, result included.
    is_own = log.result is not None and (log.result.get("status") == "FINISHED") == (code == 0)
    return attempt, log.result if is_own and code != REFUSED else None


@contextmanager
def explain_lost_job(job_id: str, cluster: Cluster) -> Iterator[None]:
    """Report a job that disappears from its cluster as lost.

    Ray's head keeps the jobs and ends them when it ends; after a restart it does not know them.

    Raises:
        JobLost: For a `JobNotFound` of the enclosed code.
    """
    try:
        yield
    except JobNotFound:
        option = cluster_option(cluster)
        raise JobLost(
            f"{cluster.label} no longer knows job {job_id}: its head was restarted, which ended "
            "the job, or the job was deleted",
            hint=f"'sumgrad status {job_id}{option}' shows its progress, "
            f"'sumgrad resume {job_id}{option}' resumes it",
        ) from None


class LogPrinter:
    """Passes on a log without the line that holds the run's result.

    Args:
        write: Called with each piece of text.

    Attributes:
        result: The run's result, once its line has come.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self.result: dict[str, Any] | None = None
        self._write = write
        #: Start of a line that may hold the result.
        self._pending = ""
        #: Whether the start of the current line has been written.
        self._is_mid_line = False

    def feed(self, text: str) -> None:
        """Take a piece of the log."""
        for part in text.splitlines(keepends=True):
            self._pending += part
            is_complete = self._pending.endswith("\n")
            may_be_result = RESULT_PREFIX.startswith(self._pending[: len(RESULT_PREFIX)])
            if is_complete or self._is_mid_line or not may_be_result:
                self.close()
                self._is_mid_line = not is_complete

    def close(self) -> None:
        """Write what is pending."""
        result = None if self._is_mid_line else _parse_result(self._pending)
        if result is not None:
            self.result = result
        elif self._pending:
            self._write(self._pending)
        self._pending = ""


def _parse_result(line: str) -> dict[str, Any] | None:
    if not line.startswith(RESULT_PREFIX):
        return None
    try:
        value = json.loads(line.removeprefix(RESULT_PREFIX), parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _reject_constant(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")


class _PatientClient:
    """Queries about one attempt to a job server that may be unreachable for a while."""

    def __init__(self, client: RayJobsClient, submission_id: str) -> None:
        self._client = client
        self._submission_id = submission_id
        self._unreachable_since: float | None = None

    def attempt(self) -> Attempt | None:
        """Return the attempt; None if the server does not answer now."""
        return self._query(self._client.get_attempt)

    def log(self) -> str | None:
        """Return the log; None if the server does not answer now."""
        return self._query(self._client.get_log)

    def insist(self, query: Callable[[], T | None]) -> T:
        """Repeat a query until the server answers."""
        while (answer := query()) is None:
            time.sleep(2 * _INTERVAL_S)
        return answer

    def _query(self, query: Callable[[str], T]) -> T | None:
        now = time.monotonic()
        try:
            answer = query(self._submission_id)
        except ServiceUnreachable as error:
            if self._unreachable_since is None:
                self._unreachable_since = now
                _logger.warning(
                    "%s; trying again, and the job continues if its cluster does", error.message
                )
            elif now - self._unreachable_since >= RECONNECT_TIMEOUT_S:
                raise
            return None
        if self._unreachable_since is not None:
            self._unreachable_since = None
            _logger.info("connected again")
        return answer
