"""The processes of the workers: started, let in, heard, replaced when they end, waited for.

A place is a number that a worker has; whoever takes a lost one's place has its number. Work goes on
with the workers that are there. Only with fewer than the least number it waits, and says so.
"""

import selectors
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from cluster.batch_policy import ordinary_policy
from cluster.channel import Address, Channel
from cluster.courier import Courier, Inbox
from cluster.doorkeeper import Doorkeeper
from cluster.errors import (
    ChannelClosed,
    ClusterUnreachable,
    FingerprintMismatch,
    ProtocolError,
    WorkerLost,
)
from cluster.fingerprint import Fingerprint, expect_same, take_fingerprint
from cluster.messages import Hello, Message, expect
from cluster.sharing import leaving
from model.checks import Array

#: How long workers may take to start, in seconds: the first ones before it is told that they do
#: not, one that takes another's place before its process is ended and started again.
START_DEADLINE_S = 60.0
#: How often it is looked whether a worker that is starting has failed, in seconds.
LOOK_S = 1.0
#: So often in a row a worker may fail to start before that is an error, if there is no other.
_MOST_TRIES = 3
#: Pauses between such failures double from the first to the last of these, in seconds.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
#: So long lost workers' places may be empty before there are too few, in seconds.
_REPLACEMENT_S = 10.0


class Launcher(Protocol):
    """Starts the processes of workers and watches them."""

    def start(self, worker: int, address: Address, secret: bytes) -> None:
        """Start a process in which a `ServingWorker` serves the driver at this address."""

    def ended(self, worker: int) -> str | None:
        """Why a worker's process is no more, or None while it is starting or running."""

    def end(self, worker: int) -> None:
        """End a worker's process, whatever it is doing."""

    def release(self, worker: int) -> None:
        """End a worker's process, and give back what it ran on."""

    def close(self) -> None:
        """End all processes."""


@dataclass(frozen=True)
class CrewRules:
    """How many workers there are to be, and what to do without them.

    Attributes:
        least: With fewer, work does not go on.
        wait_s: How long it waits for more, in seconds.
        extra: How many more may join when the cluster has room for them.
        host: This machine's address for workers on others; None if there are none.
        note: Takes a line about workers that come and go.
        is_stopping: Asked while waiting; a wait that it ends raises.
        pends: Whether a worker's process has not been started yet for want of room, which is no
            fault of its own.
        is_kept: Whether a worker's place is one of the least; others may be given back.
        share: How many workers the job may have now, as others want some too.
    """

    least: int = 1
    wait_s: float = 300.0
    extra: int = 0
    host: str | None = None
    note: Callable[[str], None] = lambda _: None
    is_stopping: Callable[[], bool] = lambda: False
    pends: Callable[[int], bool] = lambda _: False
    is_kept: Callable[[int], bool] = lambda _: True
    share: Callable[[], int] = lambda: sys.maxsize


@dataclass
class Member:
    """A worker that is connected."""

    channel: Channel
    pid: int
    #: Threads of it that compute.
    lanes: int = 1
    #: Of a worker on another machine.
    courier: Courier | None = None
    vectors: dict[int, Array] = field(default_factory=dict)

    def hang_up(self) -> None:
        """End the connection."""
        if self.courier is not None:
            self.courier.close()
        self.channel.close()


@dataclass
class _Vacancy:
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


class Crew:
    """See above.

    Args:
        first: How many workers there are to begin with.
        launcher: Starts them.
        introduce: Sends a new worker what it needs to know.
        room: Gives the places for the numbers of a message from another machine.
        rules: How many there are to be.

    Attributes:
        members: Those that are connected, by their numbers.
        places: How many there can be.
    """

    def __init__(
        self,
        first: int,
        launcher: Launcher,
        introduce: Callable[[Channel], None],
        room: Callable[[Member, Message], list[Array]],
        rules: CrewRules,
    ) -> None:
        self.members: dict[int, Member] = {}
        self._first = first
        #: How many places there can be.
        self.places = first + rules.extra
        #: Threads of the worker that was in a place last.
        self._lanes: dict[int, int] = {}
        self._launcher = launcher
        self._introduce = introduce
        self._room = room
        self._rules = rules
        self._fingerprint = take_fingerprint()
        self._vacancies: dict[int, _Vacancy] = {}
        #: Whether `start` is at work, to which a worker that can never join is an error.
        self._is_starting = False
        #: When a look at them is due.
        self._look = 0.0
        #: Since when there are fewer than the least.
        self._few_since: float | None = None
        #: Whether that has been said.
        self._told = False
        self._door = Doorkeeper(rules.host)
        self._inbox = Inbox()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._door, selectors.EVENT_READ)
        self._selector.register(self._inbox, selectors.EVENT_READ)

    def start(self) -> None:
        """Start all workers but the extra ones, and wait for them.

        Raises:
            ClusterUnreachable: They did not start in time, or it is time to stop.
            WorkerLost: One does not start at all.
            FingerprintMismatch: A worker's arithmetic is not this process's.
        """
        self._is_starting = True
        for worker in range(self._first):
            self._begin(worker, _Vacancy())
        deadline = time.monotonic() + START_DEADLINE_S
        while len(self.members) < self._first:
            self._expect_start(deadline)
            for worker, message in self.events(LOOK_S):
                if message is None:
                    self.lost(worker, "is gone")
            self.look_after()
        self._is_starting = False
        self._invite()

    def _expect_start(self, deadline: float) -> None:
        """Raise if it makes no sense to wait for the first workers any longer."""
        missing = f"{self._first - len(self.members)} of {self._first} workers' processes"
        if self._rules.is_stopping():
            raise ClusterUnreachable(f"stopped while {missing} were starting")
        for worker, vacancy in self._vacancies.items():
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

    # --- connections

    def events(self, timeout: float | None) -> Iterator[tuple[int, Message | None]]:
        """What happens within this time: a worker and its message, or None where it is gone."""
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._door:
                for channel in self._door.admitted():
                    self._selector.register(channel, selectors.EVENT_READ)
            elif key.fileobj is self._inbox:
                yield from self._brought()
            else:
                assert isinstance(key.fileobj, Channel)  # noqa: S101 - nothing else is registered
                yield from self._heard(key.fileobj, key.data)

    def _heard(self, channel: Channel, worker: int | None) -> Iterator[tuple[int, Message | None]]:
        if channel.fileno() < 0:
            # Closed by what was done about an event that came with this one.
            return
        try:
            for message in channel.pending():
                if worker is None:
                    worker = self._welcome(channel, expect(Hello, message))
                    if worker is None or self.members[worker].courier is not None:
                        # It is not let in; or the channel is the courier's from here on.
                        return
                else:
                    yield worker, message
        except (ChannelClosed, ProtocolError):
            # Who says what no worker says is of no more use than who is gone.
            self._hang_up(channel)
            if worker is not None:
                del self.members[worker]
                yield worker, None

    def _brought(self) -> Iterator[tuple[int, Message | None]]:
        """What a courier brought."""
        courier, message = self._inbox.take()
        worker = courier.worker
        member = self.members.get(worker)
        if member is None or member.courier is not courier:
            # Of a worker that was given up.
            return
        if message is None:
            self.members.pop(worker).hang_up()
        yield worker, message

    def _hang_up_member(self, member: Member) -> None:
        if member.courier is not None:
            member.hang_up()
        else:
            self._hang_up(member.channel)

    def _hang_up(self, channel: Channel) -> None:
        self._selector.unregister(channel)
        channel.close()

    def _welcome(self, channel: Channel, hello: Hello) -> int | None:
        """Let a worker in; None if it is turned away.

        Its place may have been taken by a later one, or given back. An arithmetic that is not ours
        is an error before the run has begun; afterwards work goes on with the others.

        Raises:
            FingerprintMismatch: That of one of the first workers is another.
            ChannelClosed: It is gone already.
        """
        if hello.worker in self.members or hello.worker not in self._vacancies:
            self._hang_up(channel)
            return None
        theirs = Fingerprint(hello.machine, hello.numpy, hello.blas, hello.canary)
        try:
            expect_same(self._fingerprint, theirs, hello.worker)
        except FingerprintMismatch as error:
            if self._is_starting:
                raise
            self._hang_up(channel)
            self._turn_away(hello.worker, str(error))
            return None
        # Where it is gone, that is noticed when its place is looked after.
        self._introduce(channel)
        member = self.members[hello.worker] = Member(channel, hello.pid, hello.lanes)
        self._lanes[hello.worker] = hello.lanes
        if channel.is_local:
            self._selector.modify(channel, selectors.EVENT_READ, hello.worker)
        else:
            self._selector.unregister(channel)
            with ordinary_policy():
                member.courier = Courier(
                    hello.worker, channel, self._inbox, lambda message: self._room(member, message)
                )
        self._joined(hello.worker)
        return hello.worker

    def _joined(self, worker: int) -> None:
        if self._vacancies.pop(worker).is_new:
            self._rules.note(f"worker {worker} joined: {self.present} workers now")
        if self.present >= self._rules.least:
            self._go_on()

    # --- as many as it may have

    def _claimed(self) -> int:
        """How many workers there are, with those that are starting or wait for room."""
        return sum(self._lanes.get(worker, 1) for worker in {*self.members, *self._vacancies})

    def _invite(self) -> None:
        """Ask for more workers, who come when the cluster has room; or no longer for so many."""
        more = self._rules.share() - self._claimed()
        for worker in sorted(self._vacancies, reverse=True):
            if more < 0 and self._vacancies[worker].is_new and self._rules.pends(worker):
                self._dismiss(worker)
                more += 1
        free = set(range(self.places)) - set(self.members) - set(self._vacancies)
        for worker in sorted(free)[: max(0, more)]:
            self._begin(worker, _Vacancy(is_new=True))

    def give_back(self) -> list[int]:
        """Between two steps: have workers leave where others are short of their share.

        Returns:
            Who has left.
        """
        excess = self.present - self._rules.share()
        if excess <= 0:
            return []
        left = leaving({w: n for w, n in self.lanes.items() if not self._rules.is_kept(w)}, excess)
        for worker in left:
            self._hang_up_member(self.members.pop(worker))
            self._dismiss(worker)
        if left:
            self._rules.note(
                f"gives CPUs to other jobs that wait for them: {self.present} workers now"
            )
        return left

    def _dismiss(self, worker: int) -> None:
        """End a worker's process and give its place back."""
        self._launcher.release(worker)
        self._vacancies.pop(worker, None)
        self._lanes.pop(worker, None)

    # --- processes

    def _begin(self, worker: int, vacancy: _Vacancy) -> None:
        vacancy.since = time.monotonic()
        self._vacancies[worker] = vacancy
        with ordinary_policy():
            self._launcher.start(worker, self._door.address, self._door.secret)

    def _turn_away(self, worker: int, reason: str) -> None:
        """End a process that cannot be used; its place is tried again later."""
        self._launcher.end(worker)
        self._vacancies.setdefault(worker, _Vacancy()).failed(reason)
        self._rules.note(f"worker {worker} was turned away ({reason}); it is tried again")

    def lost(self, worker: int, why: str) -> None:
        """A member ended, or was given up: another is started in its place."""
        self._rules.note(f"worker {worker} {why}; another takes its place")
        self._begin(worker, _Vacancy())

    def give_up(self, worker: int) -> None:
        """End a member that does not answer; what it may still say is not heard."""
        self._hang_up_member(self.members.pop(worker))
        self._launcher.end(worker)

    def look_after(self) -> None:
        """Start those again whose processes ended or hung before they joined, and ask for more.

        It is looked at most once a second.
        """
        now = time.monotonic()
        if now < self._look:
            return
        self._look = now + LOOK_S
        for worker, vacancy in list(self._vacancies.items()):
            if vacancy.again is not None:
                if now >= vacancy.again:
                    again = _Vacancy(vacancy.tries + 1, vacancy.is_new, reason=vacancy.reason)
                    self._begin(worker, again)
                continue
            reason = self._launcher.ended(worker)
            if reason is None and self._hangs(worker, vacancy, now):
                self._launcher.end(worker)
                reason = f"nothing was heard of it for {START_DEADLINE_S:.0f} s"
            if reason is not None:
                vacancy.failed(reason)
                self._rules.note(f"worker {worker} did not start ({reason}); it is tried again")
        if not self._is_starting:
            self._invite()

    def _hangs(self, worker: int, vacancy: _Vacancy, now: float) -> bool:
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
        """Whether there are fewer workers than the least, and it is to be waited for more.

        Those who were lost a moment ago are being replaced meanwhile, which is not waited for as
        long as there is anybody.

        Args:
            doing: What waits, as a phrase.

        Raises:
            ClusterUnreachable: More did not come in time, or it is time to stop.
        """
        if self.present >= self._rules.least:
            self._go_on()
            return False
        now = time.monotonic()
        if self._few_since is None:
            self._few_since = now
        waited = now - self._few_since
        if self.members and waited < _REPLACEMENT_S:
            return False
        self._wait_on(doing, waited)
        return True

    def _go_on(self) -> None:
        """There are enough workers; how long there were too few is of the past."""
        if self._told:
            self._rules.note(f"{self.present} workers again: going on")
        self._few_since, self._told = None, False

    def _wait_on(self, doing: str, waited: float) -> None:
        """Say that it waits, and what for; and end it when it is time to."""
        rules = self._rules
        have = f"{self.present} of the {rules.least} workers that the job needs at least"
        if rules.is_stopping():
            raise ClusterUnreachable(f"stopped while waiting for workers: there are {have}")
        if waited > rules.wait_s:
            reasons = [
                vacancy.reason or self._launcher.ended(worker)
                for worker, vacancy in self._vacancies.items()
            ]
            raise ClusterUnreachable(
                f"there are {have}, and no more came within {rules.wait_s:.0f} s",
                hint=next(filter(None, reasons), "")
                or "'sumgrad resume' goes on from here once there is room for them",
            )
        if waited > LOOK_S and not self._told:
            rules.note(f"waiting, {doing}: there are {have}; for {rules.wait_s:.0f} s at most")
            self._told = True

    def close(self) -> None:
        """End all connections, upon which the workers end."""
        self._door.close()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, Channel):
                self._hang_up(key.fileobj)
        for member in self.members.values():
            if member.courier is not None:
                member.hang_up()
        self.members = {}
        self._selector.close()
        self._inbox.close()
