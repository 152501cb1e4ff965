"""Workers that start, fail to start, are rejected, released and replaced."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sumgrad.cluster.errors import ClusterUnreachable, FingerprintMismatch, WorkerLost
from sumgrad.cluster.reducers.process import ProcessReducer
from sumgrad.cluster.transport.connection import Connection
from sumgrad.cluster.transport.handshake import Address
from sumgrad.cluster.transport.messages import AttachBuffer, Compute, Done, Hello, Message, Welcome
from sumgrad.cluster.workers import scaling_policy, worker_group, worker_state
from sumgrad.cluster.workers.launcher import Placement
from sumgrad.cluster.workers.scaling_policy import ScalingPolicy
from sumgrad.cluster.workers.worker_process import Session
from tests.cluster.polling import on_log, wait_for
from tests.cluster.processes import (
    ProcessLauncher,
    ThreadLauncher,
    introduce_and_exit,
    serve_with_another_arithmetic,
)
from tests.cluster.small_job import (
    TASK,
    SmallJob,
    assert_undisturbed,
    expected_sum,
    stop_when,
    sum_bytes,
    train,
    weights_after,
)


class ScriptedPlacement(Placement):
    """CPUs that a test grants and takes away; worker 0 is the minimum."""

    share = 10**6
    without_cpus: frozenset[int] = frozenset()
    moves = 0

    def __init__(self, initial_workers: int, extra_cpus: int = 0, host: str | None = None) -> None:
        super().__init__(initial_workers, extra_cpus, host)
        self.released: list[int] = []

    def is_required(self, worker: int) -> bool:
        return worker == 0

    def has_cpus(self, worker: int) -> bool:
        return worker not in self.without_cpus

    def has_moved(self, worker: int) -> bool:
        if worker == 0 or not self.moves:
            return False
        self.moves -= 1
        return True

    def cpu_share(self) -> int:
        return self.share

    def release(self, worker: int) -> None:
        self.released.append(worker)


@pytest.fixture
def launcher(small_job: SmallJob) -> ThreadLauncher:
    return ThreadLauncher(small_job.workload)


@contextmanager
def running(
    job: SmallJob, placement: Placement, launcher: ThreadLauncher, **policy: object
) -> Iterator[ProcessReducer]:
    with ProcessReducer(
        job.workload,
        placement,
        launcher,
        ScalingPolicy(**policy),  # type: ignore[arg-type]
    ) as reducer:
        yield reducer


def supervise(reducer: ProcessReducer) -> None:
    reducer._group._next_supervision = 0.0
    reducer._group.supervise()


# --- start


def test_a_worker_that_fails_to_start_is_retried(
    small_job: SmallJob, launcher: ThreadLauncher, log: pytest.LogCaptureFixture
) -> None:
    starts = launcher.start

    def start(worker: int, address: Address, secret: bytes) -> None:
        is_first = worker not in launcher.started
        starts(worker, address, secret if worker or not is_first else b"another")

    launcher.start = start  # type: ignore[method-assign]
    with running(small_job, Placement(2), launcher) as reducer:
        assert sum_bytes(reducer, small_job) == expected_sum(small_job)
    assert sorted(launcher.started) == [0, 0, 1]
    assert "worker 0 did not start (a connection was rejected" in log.text


def test_a_worker_that_never_starts_ends_the_job(
    small_job: SmallJob, launcher: ThreadLauncher
) -> None:
    class Failing(ThreadLauncher):
        def start(self, worker: int, address: Address, secret: bytes) -> None:
            super().start(worker, address, b"another")

    failing = Failing(small_job.workload)
    with (
        pytest.raises(WorkerLost, match="worker 0 was lost while starting: a connection was rej"),
        running(small_job, Placement(1), failing),
    ):
        pass
    assert failing.started == [0, 0, 0]


def test_processes_that_start_slowly_are_waited_for_up_to_the_resource_timeout(
    small_job: SmallJob,
    launcher: ThreadLauncher,
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a busy node, processes may take minutes to start after their CPUs were granted."""
    monkeypatch.setattr(worker_state, "START_TIMEOUT_S", 0.1)
    monkeypatch.setattr(worker_group, "_LOG_AFTER_S", 0.2)
    launcher.is_paused = True
    with (
        on_log("waiting for", launcher.resume),
        running(small_job, Placement(2), launcher, resource_timeout=60) as reducer,
    ):
        assert sum_bytes(reducer, small_job) == expected_sum(small_job)
    assert log.messages == ["waiting for 2 of 2 worker processes to start; up to 60 s"]
    assert launcher.killed == []


def test_processes_that_do_not_start_in_time_end_the_job(
    small_job: SmallJob, launcher: ThreadLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_state, "START_TIMEOUT_S", 0.1)
    launcher.is_paused = True
    with (
        pytest.raises(ClusterUnreachable, match="2 of 2 worker processes did not start within 0 s"),
        running(small_job, Placement(2), launcher, resource_timeout=0.2),
    ):
        pass


def test_a_stop_request_ends_the_wait_for_processes(
    small_job: SmallJob, launcher: ThreadLauncher
) -> None:
    launcher.is_paused = True
    with (
        pytest.raises(ClusterUnreachable, match="stopped while 2 of 2 worker processes"),
        running(small_job, Placement(2), launcher, should_stop=lambda: True),
    ):
        pass


def test_a_worker_that_disconnects_while_others_start_is_replaced(
    small_job: SmallJob, log: pytest.LogCaptureFixture
) -> None:
    class Staggered(ThreadLauncher):
        """Starts worker 1 after worker 0 was started again."""

        def start(self, worker: int, address: Address, secret: bytes) -> None:
            self.is_paused = worker == 1 and self.started.count(0) < 2
            super().start(worker, address, secret)
            if self.started.count(0) == 2:
                self.resume()

    launcher = Staggered(small_job.workload)
    launcher.behaviours = {0: introduce_and_exit}
    with running(small_job, Placement(2), launcher) as reducer:
        assert sum_bytes(reducer, small_job) == expected_sum(small_job)
    assert log.messages == ["worker 0 exited; starting a replacement"]


def test_a_worker_with_another_arithmetic_is_refused_at_the_start(
    small_job: SmallJob, launcher: ThreadLauncher
) -> None:
    launcher.behaviours = {0: serve_with_another_arithmetic}
    with (
        pytest.raises(FingerprintMismatch, match="worker 0's canary is another"),
        running(small_job, Placement(1), launcher),
    ):
        pass


@pytest.mark.parametrize("extra", [0, 1], ids=["replacement", "extra worker"])
def test_a_worker_with_another_arithmetic_that_comes_later_is_rejected(
    small_job: SmallJob, launcher: ThreadLauncher, log: pytest.LogCaptureFixture, extra: int
) -> None:
    launcher.behaviours = {2: serve_with_another_arithmetic, 3: serve_with_another_arithmetic}
    with running(small_job, Placement(2, extra), launcher) as reducer:
        worker = 2 if extra else 1
        if not extra:
            launcher.disconnect(1)
        result = train(
            small_job,
            reducer,
            should_stop=stop_when(lambda: len(launcher.started) > 4 and worker in reducer.pids),
        )
    assert_undisturbed(small_job, result)
    rejected = [line for line in log.messages if "was rejected" in line]
    assert len(rejected) == 2
    assert rejected[0].startswith(
        f"worker {worker} was rejected (worker {worker}'s canary is another, the driver's is "
    )
    assert launcher.killed == [worker, worker]


def test_a_replacement_that_hangs_is_killed_and_retried_with_more_time(
    small_job: SmallJob,
    launcher: ThreadLauncher,
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_state, "START_TIMEOUT_S", 0.1)
    with running(small_job, Placement(2), launcher, resource_timeout=0.3) as reducer:
        launcher.is_paused = True
        launcher.disconnect(1)
        train(small_job, reducer, should_stop=stop_when(lambda: len(launcher.killed) == 3))
        assert reducer._group._pending[1].timeout(0.3) == 0.3
        launcher.resume()
        result = train(small_job, reducer, should_stop=stop_when(lambda: 1 in reducer.pids))
    assert_undisturbed(small_job, result)
    assert "worker 1 did not start (it did not connect within 0 s); retrying" in log.messages


def test_a_replacement_without_cpus_is_waited_for(
    small_job: SmallJob, launcher: ThreadLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement = ScriptedPlacement(2)
    placement.without_cpus = frozenset({1})
    with running(small_job, placement, launcher, resource_timeout=0) as reducer:
        monkeypatch.setattr(worker_state, "START_TIMEOUT_S", 0.0)
        launcher.is_paused = True
        launcher.disconnect(1)
        wait_for(lambda: sum_bytes(reducer, small_job) and 1 in reducer._group._pending)
        for _ in range(5):
            supervise(reducer)
        assert launcher.killed == []
        placement.without_cpus = frozenset()
        supervise(reducer)
        assert launcher.killed == [1]


def test_a_failed_backend_ends_the_run(small_job: SmallJob, launcher: ThreadLauncher) -> None:
    with running(small_job, Placement(1), launcher) as reducer:
        launcher.backend_failure = lambda *, starting: "the daemon has exited"  # type: ignore[method-assign]
        reducer._group._next_supervision = 0.0
        with pytest.raises(ClusterUnreachable, match="the daemon has exited"):
            reducer.reduce(TASK, small_job.W)


VIOLATIONS: dict[str, Callable[[Compute], Message]] = {
    "Hello": lambda _: Hello(1, 2, 1, {"machine": "x86_64"}),
    "Welcome": lambda _: Welcome(2, 4),
    "Compute": lambda request: request,
    "sums in an unknown buffer": lambda request: Done(request.step_id, [(0, 0, 0.0, 0, 1, 99)]),
    "sums of another shape": lambda request: Done(request.step_id, [(0, 0)]),  # type: ignore[list-item]
    "a buffer without its descriptor": lambda _: AttachBuffer(9),
}


@pytest.mark.parametrize("violation", VIOLATIONS.values(), ids=VIOLATIONS)
def test_a_worker_that_violates_the_protocol_is_replaced(
    small_job: SmallJob,
    launcher: ThreadLauncher,
    log: pytest.LogCaptureFixture,
    violation: Callable[[Compute], Message],
) -> None:
    def misbehave(connection: Connection, worker: int) -> None:
        session = Session(connection, worker, small_job.workload, 1)
        handle = session.handle

        def handle_after_violation(message: Message) -> None:
            if isinstance(message, Compute):
                connection.send(violation(message))
            handle(message)

        session.handle = handle_after_violation  # type: ignore[method-assign]
        session.run()

    def is_replaced() -> bool:
        violated = any(line.startswith("worker 1 violated the protocol (") for line in log.messages)
        return violated and 1 in reducer.pids

    launcher.behaviours = {2: misbehave}
    with running(small_job, Placement(2), launcher) as reducer:
        launcher.disconnect(1)
        result = train(small_job, reducer, should_stop=stop_when(is_replaced))
    assert_undisturbed(small_job, result)


def test_a_worker_that_exits_before_its_first_sum_is_restarted_with_increasing_delays(
    small_job: SmallJob, launcher: ThreadLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    delayed: list[int] = []
    fail = worker_state.WorkerState.fail

    def record(worker: worker_state.WorkerState, reason: str) -> None:
        delayed.append(worker.attempts)
        fail(worker, reason)

    monkeypatch.setattr(worker_state.WorkerState, "fail", record)
    launcher.behaviours = dict.fromkeys(range(2, 6), introduce_and_exit)
    with running(small_job, Placement(2), launcher) as reducer:

        def has_delivered() -> bool:
            is_proven = 1 in reducer.pids and reducer._group._states[1].attempts == 0
            return launcher.started.count(1) > 5 and is_proven

        launcher.disconnect(1)
        result = train(small_job, reducer, should_stop=stop_when(has_delivered))
        launcher.disconnect(1)
        train(small_job, reducer, should_stop=stop_when(lambda: len(launcher.started) > 7))
    assert delayed[:3] == [2, 3, 4]
    assert len(delayed) < 5, "a worker that has delivered a sum is replaced at once"
    assert_undisturbed(small_job, result)


# --- the minimum


def test_with_too_few_workers_it_waits_and_resumes_when_there_are_enough(
    small_job: SmallJob,
    launcher: ThreadLauncher,
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scaling_policy, "_REPLACEMENT_S", 0.05)
    with running(small_job, Placement(2), launcher, min_cpus=2, resource_timeout=60) as reducer:
        launcher.is_paused = True
        launcher.disconnect(0)

        with on_log("waiting while", launcher.resume):
            result = train(
                small_job,
                reducer,
                should_stop=stop_when(lambda: "2 workers are running: resuming" in log.messages),
            )
    assert_undisturbed(small_job, result)
    waiting = next(line for line in log.messages if line.startswith("waiting while"))
    assert "1 of at least 2 required workers are running; up to 60 s" in waiting


@pytest.mark.parametrize("left", [0, 1])
def test_too_few_workers_for_too_long_end_the_run_with_a_snapshot(
    small_job: SmallJob, launcher: ThreadLauncher, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling_policy, "_REPLACEMENT_S", 0.05)
    with running(small_job, Placement(2), launcher, min_cpus=2, resource_timeout=0.3) as reducer:
        launcher.is_paused = True
        for worker in range(left, 2):
            launcher.disconnect(worker)
        result = train(small_job, reducer)
    assert isinstance(result.failure, ClusterUnreachable)
    assert f"{left} of at least 2 required workers are running" in str(result.failure)
    assert result.snapshot is not None
    assert result.snapshot.arrays["W"].tobytes() == weights_after(small_job, result.steps)


def test_a_stop_request_ends_the_wait_for_workers(
    small_job: SmallJob, launcher: ThreadLauncher, log: pytest.LogCaptureFixture
) -> None:
    def is_waiting() -> bool:
        return any(line.startswith("waiting while") for line in log.messages)

    with running(small_job, Placement(1), launcher, should_stop=is_waiting) as reducer:
        launcher.is_paused = True
        launcher.disconnect(0)
        result = train(small_job, reducer, should_stop=stop_when(is_waiting))
    assert result.failure is None
    assert result.snapshot is not None


def test_the_time_with_too_few_workers_is_reset_when_there_are_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    minimum = scaling_policy.WorkerMinimum(ScalingPolicy(min_cpus=2, resource_timeout=1000))
    assert minimum.must_wait(0, "summing", [])
    assert minimum._short_since is not None
    minimum._short_since -= 2000
    with pytest.raises(ClusterUnreachable, match=r"within 1000 s: no node$") as caught:
        minimum.must_wait(0, "summing", [None, "no node"])
    assert "sumgrad resume" in caught.value.hint
    assert not minimum.must_wait(2, "summing", [])
    assert minimum._short_since is None


# --- scaling


def test_extra_workers_join_when_there_are_cpus(
    small_job: SmallJob, launcher: ThreadLauncher, log: pytest.LogCaptureFixture
) -> None:
    placement = ScriptedPlacement(1, 2)
    with running(small_job, placement, launcher) as reducer:
        assert reducer.num_threads == 1
        result = train(small_job, reducer, should_stop=stop_when(lambda: reducer.num_threads == 3))
    joined = sorted(line.partition(":")[0] for line in log.messages)
    assert joined == ["worker 1 joined", "worker 2 joined"]
    assert log.messages[-1].endswith(": 3 workers now")
    assert_undisturbed(small_job, result)


def test_workers_are_released_and_join_again_as_the_share_changes(
    small_job: SmallJob, launcher: ThreadLauncher, log: pytest.LogCaptureFixture
) -> None:
    shares = iter([1, 3, 2, 4, 1])
    placement = ScriptedPlacement(4)
    placement.share = 4
    with running(small_job, placement, launcher) as reducer:

        def change() -> None:
            if reducer.num_threads == placement.share:
                placement.share = next(shares, 0)

        result = train(
            small_job,
            reducer,
            on_step=change,
            should_stop=stop_when(lambda: placement.share == 0),
        )
        assert list(reducer.pids) == [0], "the minimum is never released"
    assert_undisturbed(small_job, result)
    assert [line for line in log.messages if line.startswith("released")] == [
        f"released CPUs to other jobs: {number} now"
        for number in ("1 worker", "2 workers", "1 worker")
    ]


def test_the_smallest_worker_that_has_enough_cpus_is_released(small_job: SmallJob) -> None:
    """A process of three threads has three CPUs; to release one, a smaller worker leaves."""
    launcher = ProcessLauncher(small_job.workload, remote=frozenset({1}), threads=3)
    placement = ScriptedPlacement(3, host="127.0.0.1")
    placement.share = 5
    with ProcessReducer(small_job.workload, placement, launcher) as reducer:
        assert reducer.num_threads == 5
        present: list[list[int]] = []

        def change() -> None:
            if not present or sorted(reducer.pids) != present[-1]:
                present.append(sorted(reducer.pids))
                placement.share -= 1

        result = train(
            small_job, reducer, on_step=change, should_stop=stop_when(lambda: len(present) == 3)
        )
    assert present == [[0, 1, 2], [0, 1], [0]]
    assert_undisturbed(small_job, result)


def test_pending_workers_beyond_the_share_are_cancelled(
    small_job: SmallJob, launcher: ThreadLauncher
) -> None:
    placement = ScriptedPlacement(1, 3)
    with running(small_job, placement, launcher) as reducer:
        launcher.is_paused = True
        placement.share = 1
        wait_for(lambda: reducer.num_threads == 1 or sum_bytes(reducer, small_job))
        for worker in (1, 2, 3):
            if worker in reducer.pids:
                launcher.disconnect(worker)
        wait_for(lambda: sum_bytes(reducer, small_job) and list(reducer.pids) == [0])
        placement.without_cpus = frozenset({1, 2, 3})
        supervise(reducer)
        assert reducer._group._pending == {}


def test_workers_that_cannot_join_release_their_cpus(
    small_job: SmallJob, launcher: ThreadLauncher
) -> None:
    """A worker that is rejected again and again keeps a CPU in between."""
    placement = ScriptedPlacement(1, 1)
    launcher.behaviours = dict.fromkeys(range(1, 99), serve_with_another_arithmetic)
    with running(small_job, placement, launcher) as reducer:
        wait_for(lambda: sum_bytes(reducer, small_job) and launcher.killed)
        placement.share = 1
        wait_for(lambda: sum_bytes(reducer, small_job) and placement.released == [1])
        assert reducer._group._pending == {}


def test_a_worker_that_connects_after_it_was_cancelled_is_not_accepted(
    small_job: SmallJob, launcher: ThreadLauncher
) -> None:
    placement = ScriptedPlacement(1)
    with running(small_job, placement, launcher) as reducer:
        server = reducer._group._server
        launcher.start(1, server.address, server.secret)
        thread = launcher._threads[-1]
        wait_for(lambda: sum_bytes(reducer, small_job) and not thread.is_alive())
        assert list(reducer.pids) == [0]


def test_a_worker_whose_cpus_have_moved_is_started_elsewhere(
    small_job: SmallJob, launcher: ThreadLauncher
) -> None:
    placement = ScriptedPlacement(1, 1)
    placement.moves = 2
    with running(small_job, placement, launcher) as reducer:
        result = train(small_job, reducer, should_stop=stop_when(lambda: 1 in reducer.pids))
    assert launcher.started == [0, 1, 1, 1]
    assert placement.released[:2] == [1, 1]
    assert_undisturbed(small_job, result)
