"""What a job prints, up to its real end: a connection that ends says nothing about the job."""

import math
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from sumgrad.jobs.errors import ServiceUnreachable
from sumgrad.jobs.service.client.ray_api import Attempt, RayJobsClient

T = TypeVar("T")
#: A job server may be away for so long before we give up; the job goes on without us.
PATIENCE_S = 600.0
_PAUSE_S = 1.0
#: It is not known whether the connection alone has ended, or the cluster.
_AGAIN = "trying again; a job goes on without us, if its cluster does"


class Clock(Protocol):
    """What `follow` and `wait` need of time."""

    def monotonic(self) -> float:
        """Seconds."""

    def sleep(self, seconds: float, /) -> None:
        """Let some pass."""


def follow(
    server: RayJobsClient,
    submission_id: str,
    write: Callable[[str], None],
    note: Callable[[str], None],
    *,
    clock: Clock = time,
) -> Attempt:
    """Hand on everything that a submission prints, once and in order, until it is over.

    Args:
        server: The cluster's.
        submission_id: Which.
        write: Takes text.
        note: Takes a line about the connection.
        clock: Of the world, or of a test.

    Returns:
        How it ended.

    Raises:
        ServiceUnreachable: The cluster has been away for too long; the job may go on.
        JobNotFound: It was deleted, or the cluster started anew.
    """
    patient = _Patient(server, submission_id, note, clock)
    seen = 0
    while True:
        # Each connection begins with the first character again.
        position, checked = 0, clock.monotonic()
        has_ended = False

        def is_wanted() -> bool:
            return not has_ended  # noqa: B023 - asked within this turn only

        for piece in server.tail(submission_id, is_wanted):
            fresh = piece[max(0, seen - position) :]
            position += len(piece)
            if fresh:
                write(fresh)
                seen += len(fresh)
            elif clock.monotonic() - checked > 2.0:
                # A connection can be dead without anybody saying so.
                checked = clock.monotonic()
                has_ended = patient.attempt().has_ended
        attempt = patient.attempt()
        if attempt.has_ended:
            rest = patient.log()[seen:]
            if rest:
                write(rest)
            return attempt
        clock.sleep(_PAUSE_S)


def wait(
    server: RayJobsClient,
    submission_id: str,
    note: Callable[[str], None],
    *,
    seconds: float | None = None,
    every_s: float = _PAUSE_S,
    clock: Clock = time,
) -> Attempt | None:
    """Wait for a submission's end.

    Args:
        server: The cluster's.
        submission_id: Which.
        note: Takes a line about the connection.
        seconds: How long; None for as long as it takes.
        every_s: How often to ask.
        clock: Of the world, or of a test.

    Returns:
        How it ended; None if it has not in time.

    Raises:
        ServiceUnreachable: The cluster has been away for too long.
        JobNotFound: See `follow`.
    """
    patient = _Patient(server, submission_id, note, clock)
    give_up = math.inf if seconds is None else clock.monotonic() + seconds
    while True:
        try:
            attempt = patient.attempt(give_up)
        except ServiceUnreachable:
            if clock.monotonic() < give_up:
                raise
            return None
        if attempt.has_ended:
            return attempt
        left = give_up - clock.monotonic()
        if left <= 0:
            return None
        clock.sleep(min(every_s, left))


class _Patient:
    """Asks a job server that may be away for a while."""

    def __init__(
        self, server: RayJobsClient, submission_id: str, note: Callable[[str], None], clock: Clock
    ) -> None:
        self._server = server
        self._submission_id = submission_id
        self._note = note
        self._clock = clock

    def attempt(self, give_up: float = math.inf) -> Attempt:
        return self._ask(lambda: self._server.attempt(self._submission_id), give_up)

    def log(self) -> str:
        return self._ask(lambda: self._server.log(self._submission_id))

    def _ask(self, question: Callable[[], T], give_up: float = math.inf) -> T:
        is_told = False
        give_up = min(give_up, self._clock.monotonic() + PATIENCE_S)
        while True:
            try:
                answer = question()
            except ServiceUnreachable as error:
                left = give_up - self._clock.monotonic()
                if left <= 0:
                    raise
                if not is_told:
                    self._note(f"{error.message}; {_AGAIN}")
                    is_told = True
                self._clock.sleep(min(2 * _PAUSE_S, left))
                continue
            if is_told:
                self._note("connected again")
            return answer
