"""The processes of the workers: started, let in, heard, replaced when they end, waited for.

A place is a number that a worker has; whoever takes a lost one's place has its number. Work goes on
with the workers that are there. Only with fewer than the least number it waits, and says so.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sumgrad.cluster.compute.fingerprint import (
    Fingerprint,
    check_same_fingerprint,
    compute_fingerprint,
)
from sumgrad.cluster.compute.os_scheduling import sched_other
from sumgrad.cluster.errors import ClusterUnreachable, FingerprintMismatch, WorkerLost
from sumgrad.cluster.ray_backend.fair_share import choose_workers_to_release
from sumgrad.cluster.transport.connection import Connection
from sumgrad.cluster.transport.messages import Hello, Message
from sumgrad.cluster.transport.server import WorkerConnection, WorkerServer
from sumgrad.cluster.workers.quorum import Quorum
from sumgrad.cluster.workers.scaling_policy import LOOK_S, Launcher, ScalingPolicy
from sumgrad.model.validation import Array

#: How long workers may take to start, in seconds: the first ones before it is told that they do
#: not, one that takes another's place before its process is ended and started again.
START_DEADLINE_S = 60.0
#: So often in a row a worker may fail to start before that is an error, if there is no other.
_MOST_TRIES = 3
#: Pauses between such failures double from the first to the last of these, in seconds.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


@dataclass
class _PendingWorker:
    """A place whose worker is starting, or is to be started again."""

    tries: int = 1
    #: Whether it is for one more worker, and not for one that was lost.
    is_new: bool = False
    #: Since when a process has been starting.
    since: float = 0.0
    #: When to try again; None while a process is starting.
    again: float | None = None
    #: Why the last try failed.
    reason: str = ""

    def failed(self, reason: str) -> None:
        """The process did not start; it is tried again after a pause."""
        # The exponent has its bound because no float holds two to the number of a long run's tries.
        pause = _FIRST_PAUSE_S * 2 ** min(self.tries - 1, 10)
        self.again = time.monotonic() + min(pause, _LONGEST_PAUSE_S)
        self.reason = reason


class WorkerGroup:
    """See above.

    Args:
        first: How many workers there are to begin with.
        launcher: Starts them.
        introduce: Sends a new worker what it needs to know.
        room: Gives the places for the numbers of a message from another machine.
        rules: How many there are to be.

    Attributes:
        members: Those that are connected, by their numbers.
        max_workers: How many there can be.
    """

    def __init__(
        self,
        first: int,
        launcher: Launcher,
        introduce: Callable[[Connection], None],
        room: Callable[[WorkerConnection, Message], list[Array]],
        rules: ScalingPolicy,
    ) -> None:
        self._first = first
        #: How many places there can be.
        self.max_workers = first + rules.extra
        #: Threads of the worker that was in a place last.
        self._lanes: dict[int, int] = {}
        self._launcher = launcher
        self._introduce = introduce
        self._rules = rules
        self._fingerprint = compute_fingerprint()
        self._pending: dict[int, _PendingWorker] = {}
        #: Whether `start` is at work, to which a worker that can never join is an error.
        self._is_starting = False
        #: When a look at them is due.
        self._look = 0.0
        self._quorum = Quorum(rules)
        self._connections = WorkerServer(rules.host, self._admit, room)
        self.members = self._connections.members

    def start(self) -> None:
        """Start all workers but the extra ones, and wait for them.

        Raises:
            ClusterUnreachable: They did not start in time, or it is time to stop.
            WorkerLost: One does not start at all.
            FingerprintMismatch: A worker's arithmetic is not this process's.
        """
        self._is_starting = True
        for worker in range(self._first):
            self._begin(worker, _PendingWorker())
        deadline = time.monotonic() + START_DEADLINE_S
        while len(self.members) < self._first:
            self._expect_start(deadline)
            for worker, message in self.events(LOOK_S):
                if message is None:
                    self.lost(worker, "is gone")
            self.supervise()
        self._is_starting = False
        self._invite()

    def _expect_start(self, deadline: float) -> None:
        """Raise if it makes no sense to wait for the first workers any longer."""
        missing = f"{self._first - len(self.members)} of {self._first} workers' processes"
        if self._rules.is_stopping():
            raise ClusterUnreachable(f"stopped while {missing} were starting")
        for worker, vacancy in self._pending.items():
            if vacancy.tries >= _MOST_TRIES and vacancy.again is not None:
                raise WorkerLost(worker, "starting", hint=vacancy.reason)
        if time.monotonic() > deadline:
            raise ClusterUnreachable(
                f"{missing} did not start within {START_DEADLINE_S:.0f} s",
                hint="ask for fewer workers (cluster.workers) or look at 'ray status'",
            )

    @property
    def lanes(self) -> dict[int, int]:
        """Of the workers that are connected, how many threads compute."""
        return {worker: self.members[worker].lanes for worker in sorted(self.members)}

    @property
    def present(self) -> int:
        """How many compute at a time, over all that are connected."""
        return sum(member.lanes for member in self.members.values())

    # --- who is there

    def events(self, timeout: float | None) -> Iterator[tuple[int, Message | None]]:
        """What happens within this time: a worker and its message, or None where it is gone."""
        for worker, message in self._connections.events(timeout):
            if isinstance(message, Hello):
                self._joined(worker)
            else:
                yield worker, message

    def _admit(self, channel: Connection, hello: Hello) -> bool:
        """Whether a worker is let in; it is told what it needs to know then.

        Its place may have been taken by a later one, or given back. An arithmetic that is not ours
        is an error before the run has begun; afterwards work goes on with the others.

        Raises:
            FingerprintMismatch: That of one of the first workers is another.
            ConnectionClosed: It is gone already.
        """
        if hello.worker in self.members or hello.worker not in self._pending:
            return False
        theirs = Fingerprint(hello.machine, hello.numpy, hello.blas, hello.canary)
        try:
            check_same_fingerprint(self._fingerprint, theirs, hello.worker)
        except FingerprintMismatch as error:
            if self._is_starting:
                raise
            self._turn_away(hello.worker, str(error))
            return False
        if not self._rules.fits(hello.worker):
            # More are asked for in its place.
            self._dismiss(hello.worker)
            return False
        # Where it is gone, that is noticed when its place is looked after.
        self._introduce(channel)
        return True

    def _joined(self, worker: int) -> None:
        self._lanes[worker] = self.members[worker].lanes
        if self._pending.pop(worker).is_new:
            self._rules.note(f"worker {worker} joined: {self._number()} now")
        self._quorum.reached(self.present)

    def _number(self) -> str:
        """How many compute, in words."""
        return f"{self.present} worker{'' if self.present == 1 else 's'}"

    # --- as many as it may have

    def _claimed(self) -> int:
        """How many workers there are, with those that are starting or wait for room."""
        return sum(self._lanes.get(worker, 1) for worker in {*self.members, *self._pending})

    def _invite(self) -> None:
        """Ask for more workers, who come when the cluster has room."""
        more = self._rules.share() - self._claimed()
        free = set(range(self.max_workers)) - set(self.members) - set(self._pending)
        for worker in sorted(free)[: max(0, more)]:
            self._begin(worker, _PendingWorker(is_new=True))

    def _withdraw(self) -> None:
        """Give places back whose workers are not there, as long as there are too many of them."""
        excess = self._claimed() - self._rules.share()
        for worker in sorted(self._pending, reverse=True):
            if excess <= 0:
                return
            is_idle = self._pending[worker].again is not None or self._rules.pends(worker)
            if is_idle and not self._rules.is_kept(worker):
                excess -= self._lanes.get(worker, 1)
                self._dismiss(worker)

    def give_back(self) -> list[int]:
        """Before a step: have workers leave where others are short of their share.

        Returns:
            Who has left.
        """
        excess = self.present - self._rules.share()
        if excess <= 0:
            return []
        # They would take what is given back.
        self._withdraw()
        left = choose_workers_to_release(
            {w: n for w, n in self.lanes.items() if not self._rules.is_kept(w)}, excess
        )
        for worker in left:
            self._connections.disconnect(worker)
            self._dismiss(worker)
        if left:
            self._rules.note(
                f"gives CPUs to other jobs that are short of them: {self._number()} now"
            )
        return left

    def _dismiss(self, worker: int) -> None:
        """End a worker's process and give its place back."""
        self._launcher.release(worker)
        self._pending.pop(worker, None)
        self._lanes.pop(worker, None)

    # --- processes

    def _begin(self, worker: int, vacancy: _PendingWorker) -> None:
        vacancy.since = time.monotonic()
        self._pending[worker] = vacancy
        with sched_other():
            self._launcher.start(worker, self._connections.address, self._connections.secret)

    def _turn_away(self, worker: int, reason: str) -> None:
        """End a process that cannot be used; its place is tried again later."""
        self._launcher.kill(worker)
        self._pending.setdefault(worker, _PendingWorker()).failed(reason)
        self._rules.note(f"worker {worker} was turned away ({reason}); it is tried again")

    def lost(self, worker: int, why: str) -> None:
        """A member ended, or was given up: another is started in its place."""
        self._rules.note(f"worker {worker} {why}; another takes its place")
        self._begin(worker, _PendingWorker())

    def give_up(self, worker: int) -> None:
        """End a member that does not answer; what it may still say is not heard."""
        self._connections.disconnect(worker)
        self._launcher.kill(worker)

    def supervise(self) -> None:
        """Start those again whose processes ended or hung before they joined, and ask for more.

        It is looked at most once a second.

        Raises:
            ClusterUnreachable: There will be no workers any more.
        """
        now = time.monotonic()
        if now < self._look:
            return
        self._look = now + LOOK_S
        if (failure := self._rules.failure()) is not None:
            raise ClusterUnreachable(failure, hint="'sumgrad resume' goes on from here")
        for worker, vacancy in list(self._pending.items()):
            if vacancy.again is not None:
                if now >= vacancy.again:
                    again = _PendingWorker(vacancy.tries + 1, vacancy.is_new, reason=vacancy.reason)
                    self._begin(worker, again)
                continue
            reason = self._launcher.exit_reason(worker)
            if reason is None and self._hangs(worker, vacancy, now):
                self._launcher.kill(worker)
                reason = f"nothing was heard of it for {START_DEADLINE_S:.0f} s"
            if reason is not None:
                vacancy.failed(reason)
                self._rules.note(f"worker {worker} did not start ({reason}); it is tried again")
        if not self._is_starting:
            self._withdraw()
            self._invite()

    def _hangs(self, worker: int, vacancy: _PendingWorker, now: float) -> bool:
        """Whether a process has been starting for far too long.

        It may wait for room as long as it takes.
        """
        if self._is_starting or now - vacancy.since <= START_DEADLINE_S:
            return False
        if self._rules.pends(worker):
            vacancy.since = now
            return False
        return True

    def must_wait(self, doing: str) -> bool:
        """See `Quorum.must_wait`."""
        reasons = (
            vacancy.reason or self._launcher.exit_reason(worker)
            for worker, vacancy in self._pending.items()
        )
        return self._quorum.must_wait(self.present, doing, reasons)

    def close(self) -> None:
        """End all connections, upon which the workers end."""
        self._connections.close()
