"""Following a job's log, and waiting for a job, until Ray confirms that it has ended.

All functions raise `ServiceUnreachable` if the cluster has not answered for `RECONNECT_TIMEOUT_S`,
and `JobLost` if the attempt was deleted or the cluster was restarted.
"""

import json
import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from sumgrad.jobs.errors import JobLost, JobNotFound, ServiceUnreachable
from sumgrad.jobs.service.client.ray_api import RayJobsClient
from sumgrad.jobs.service.manifest import RESULT_PREFIX
from sumgrad.jobs.service.states import REFUSED, Attempt
from sumgrad.jobs.support.polling import wait_until

T = TypeVar("T")
_logger = logging.getLogger(__name__)
RECONNECT_TIMEOUT_S = 600.0  #: Seconds for which a job server may be unreachable.
_INTERVAL_S = 1.0


def wait(
    client: RayJobsClient,
    submission_id: str,
    *,
    timeout: float = math.inf,
    interval: float = _INTERVAL_S,
) -> Attempt | None:
    """Return an attempt when it has ended; None if it has not after ``timeout`` seconds."""
    query = _RetryingClient(client, submission_id).query

    def ended() -> Attempt | None:
        attempt = query(client.get_attempt)
        return attempt if attempt is not None and attempt.has_ended else None

    return wait_until(ended, timeout, interval=interval)


def follow(client: RayJobsClient, submission_id: str, write: Callable[[str], None]) -> Attempt:
    """Pass on what an attempt prints, each character once and in order, and return how it ended."""
    retry = _RetryingClient(client, submission_id).retry
    written = 0
    while True:
        # Each connection starts again with the first character of the log.
        position, last_check = 0, time.monotonic()
        for piece in client.tail_log(submission_id):
            new = piece[max(0, written - position) :]
            position += len(piece)
            if new:
                write(new)
                written += len(new)
            elif time.monotonic() - last_check > 2 * _INTERVAL_S:
                # A connection may be dead without an error.
                last_check = time.monotonic()
                if retry(client.get_attempt).has_ended:
                    break
        # That a connection ends does not show that the job has ended.
        attempt = retry(client.get_attempt)
        if attempt.has_ended:
            if rest := retry(client.get_log)[written:]:
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
    code = attempt.exit_code
    # The log may start with that of a deleted job which had the same id, result included.
    is_own = log.result is not None and (log.result.get("status") == "FINISHED") == (code == 0)
    return attempt, log.result if is_own and code != REFUSED else None


class LogPrinter:
    """A filter that passes on the lines of a log, except for the line with the run's result."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.result: dict[str, Any] | None = None  #: The run's result, once its line has come.
        self._write = write
        self._incomplete_line = ""

    def feed(self, text: str) -> None:
        """Take a piece of the log."""
        *lines, self._incomplete_line = (self._incomplete_line + text).split("\n")
        for line in lines:
            self._print(f"{line}\n")

    def close(self) -> None:
        """Take the end of the log."""
        if self._incomplete_line:
            self._print(self._incomplete_line)

    def _print(self, line: str) -> None:
        result = None
        if line.startswith(RESULT_PREFIX):
            with suppress(ValueError, RecursionError):
                # JSON has no constants such as NaN; the command prints null for them.
                text = line.removeprefix(RESULT_PREFIX)
                result = json.loads(text, parse_constant=lambda _: None)
        if isinstance(result, dict):
            self.result = result
        else:
            self._write(line)


class _RetryingClient:
    """Queries about one attempt to a job server that may be unreachable for a while."""

    def __init__(self, client: RayJobsClient, submission_id: str) -> None:
        self._cluster = client.cluster
        self._submission_id = submission_id
        self._unreachable_since: float | None = None

    def query(self, query: Callable[[str], T]) -> T | None:
        """Return the answer to a query; None if the server does not answer now."""
        now = time.monotonic()
        try:
            answer = query(self._submission_id)
        except JobNotFound:
            raise self._lost() from None
        except ServiceUnreachable as error:
            if self._unreachable_since is None:
                self._unreachable_since = now
                hint = "trying again, and the job continues if its cluster does"
                _logger.warning("%s; %s", error.message, hint)
            elif now - self._unreachable_since >= RECONNECT_TIMEOUT_S:
                raise
            return None
        if self._unreachable_since is not None:
            self._unreachable_since = None
            _logger.info("connected again")
        return answer

    def retry(self, query: Callable[[str], T]) -> T:
        """Repeat a query until the server answers."""
        while (answer := self.query(query)) is None:
            time.sleep(2 * _INTERVAL_S)
        return answer

    def _lost(self) -> JobLost:
        # Ray's head keeps the jobs and ends them when it ends; a new one does not know them.
        cluster, job_id = self._cluster, self._submission_id.partition("~")[0]
        return JobLost(
            f"{cluster.label} no longer knows job {job_id}: its head was restarted, which ended "
            "the job, or the job was deleted",
            hint=f"'{cluster.command(f'status {job_id}')}' shows its progress, "
            f"'{cluster.command(f'resume {job_id}')}' resumes it",
        )
