"""The status that Ray, MLflow and the heartbeat give together."""

from dataclasses import asdict, replace

import pytest

from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.service.client.run_view import RunView
from sumgrad.jobs.service.client.status import (
    Status,
    needs_log,
    reconcile,
    status_lines,
    status_without_ray,
)
from sumgrad.jobs.service.heartbeat import (
    HEARTBEAT_TIMEOUT_S,
    TRAINING_STARTED,
    Heartbeat,
)
from sumgrad.jobs.service.states import (
    FAILED,
    FINISHED,
    PENDING,
    RUNNING,
    STOPPED,
    SUCCEEDED,
    Job,
    group_by_job,
)
from tests.jobs.service.fakes import attempt

LAB = Cluster(address="http://lab:8265", name="lab")
START, NOW = 10_000.0, 10_600.0
URI, RUN = "http://mlflow:5000", "digits-3kf9x1"
WAITING = Heartbeat(NOW - 5, note="waiting for 2 CPUs")
TRAINING = Heartbeat(NOW - 5, is_training=True, note="digits", epoch=3, epochs=20, loss=0.25)
OLD = replace(WAITING, at=NOW - 31)
STALE = replace(TRAINING, at=NOW - HEARTBEAT_TIMEOUT_S - 1)
EARLIER = replace(TRAINING, at=START - HEARTBEAT_TIMEOUT_S - 1)
FUTURE = replace(TRAINING, at=NOW + HEARTBEAT_TIMEOUT_S + 1)
NO_NOTE = Heartbeat(NOW - 5)


def job(state: str, exit_code: int | None = None, message: str = "") -> Job:
    (found,) = group_by_job(
        [attempt("job", state, exit_code=exit_code, message=message, start_time=START)]
    )
    return found


def view(status: str | None, beat: Heartbeat | None = None) -> RunView:
    if status is None:
        return RunView(URI, heartbeat=beat)
    return RunView(URI, RUN, status, beat, mlflow_run_id="0ab")


HANGS = "Ray has it as RUNNING, and its last heartbeat is 61 s old: it hangs"
LIVING = [
    # Ray, run, heartbeat → state, reason, starts of the differences
    (PENDING, None, None, PENDING, "Ray has not started it yet", []),
    (PENDING, "RUNNING", EARLIER, PENDING, "Ray has not started it yet", []),
    (PENDING, "KILLED", EARLIER, PENDING, "Ray has not started it yet", []),
    (RUNNING, "RUNNING", WAITING, PENDING, "waiting for 2 CPUs", []),
    (RUNNING, "RUNNING", NO_NOTE, PENDING, "it is starting", []),
    (RUNNING, "RUNNING", TRAINING, RUNNING, "3 of at most 20 epochs done", []),
    (RUNNING, "RUNNING", STALE, RUNNING, "3 of at most 20 epochs done", [HANGS]),
    (
        *(RUNNING, "RUNNING", FUTURE, RUNNING, "3 of at most 20 epochs done"),
        ["the cluster's clock is 61 s ahead"],
    ),
    (RUNNING, "RUNNING", OLD, RUNNING, "according to Ray alone", []),
    (
        *(RUNNING, "RUNNING", None, RUNNING, "according to Ray alone"),
        ["Ray has it as RUNNING, and it has sent no heartbeat for 600 s"],
    ),
    (
        *(RUNNING, "RUNNING", EARLIER, RUNNING, "according to Ray alone"),
        ["Ray has it as RUNNING, and it has sent no heartbeat for 600 s"],
    ),
    (
        *(RUNNING, None, None, RUNNING, "according to Ray alone"),
        [f"Ray has it as RUNNING for 600 s, and {URI} has no run of it"],
    ),
    (
        *(RUNNING, "FINISHED", TRAINING, RUNNING, "3 of at most 20 epochs done"),
        ["MLflow has it as FINISHED, and Ray as RUNNING: it is ending"],
    ),
    (
        *(RUNNING, "KILLED", STALE, RUNNING, "3 of at most 20 epochs done"),
        ["MLflow has it as KILLED, and Ray as RUNNING: it is ending", HANGS],
    ),
]


@pytest.mark.parametrize(("ray", "run", "beat", "state", "reason", "differences"), LIVING)
def test_a_pending_or_running_job(
    ray: str,
    run: str | None,
    beat: Heartbeat | None,
    state: str,
    reason: str,
    differences: list[str],
) -> None:
    found = reconcile(job(ray), view(run, beat), NOW)
    assert (found.state, found.reason) == (state, reason)
    assert len(found.differences) == len(differences)
    for difference, start in zip(found.differences, differences, strict=True):
        assert difference.startswith(start)
    assert found.exit_code is None
    assert not found.can_resume
    assert (found.heartbeat_age_s is None) is (beat in (None, EARLIER))


FIRST = "in the first epoch of this attempt"
EPOCHS = "epoch 1/20  loss 0.5000  9 instances/s\nepoch 2/20  loss 0.4  9 instances/s\nbye\n"
LOGS = [
    # what the job has printed → state, reason
    ("", PENDING, "it is starting"),
    ("digits: reading\n  waiting for 2 CPUs\n\n", PENDING, "waiting for 2 CPUs"),
    (f"on 2 workers\n{TRAINING_STARTED}\n", RUNNING, f"{FIRST}, according to its log"),
    (f"{TRAINING_STARTED}\nworker 1 joined\n", RUNNING, f"{FIRST}, according to its log"),
    (f"{TRAINING_STARTED}\n{EPOCHS}", RUNNING, "2 of at most 20 epochs done, according to its log"),
    ("epoch 1 of another program", PENDING, "epoch 1 of another program"),
    ("x" * 900, PENDING, "x" * 200 + " …"),
]


@pytest.mark.parametrize("beat", [None, OLD, EARLIER])
@pytest.mark.parametrize(("log", "state", "reason"), LOGS)
def test_the_log_shows_what_mlflow_missed(
    log: str, state: str, reason: str, beat: Heartbeat | None
) -> None:
    run = view("RUNNING", beat)
    assert needs_log(job(RUNNING), run, NOW)
    found = reconcile(job(RUNNING), run, NOW, log)
    assert (found.state, found.reason) == (state, reason)


@pytest.mark.parametrize("beat", [WAITING, NO_NOTE, TRAINING, STALE])
def test_the_log_is_not_needed_with_a_current_heartbeat(beat: Heartbeat) -> None:
    assert not needs_log(job(RUNNING), view("RUNNING", beat), NOW)
    assert not needs_log(job(PENDING), view(None), NOW)
    assert not needs_log(job(STOPPED), view(None), NOW)


KILLED = "the job was killed, or MLflow was unreachable; 'sumgrad resume' updates MLflow"
OVER = [
    # Ray, code, run → state, exit code, can resume, reason, differences
    (SUCCEEDED, 0, "FINISHED", FINISHED, 0, False, "it finished", []),
    (
        *(SUCCEEDED, 0, "RUNNING", FINISHED, 0, False, "it finished"),
        [f"Ray has it as SUCCEEDED, MLflow still as RUNNING: {KILLED}"],
    ),
    (
        *(SUCCEEDED, 0, "FAILED", FINISHED, 0, False, "it finished"),
        ["Ray has it as SUCCEEDED, MLflow as FAILED"],
    ),
    (
        *(SUCCEEDED, 0, None, FINISHED, 0, False, "it finished"),
        [f"Ray has it as SUCCEEDED, and {URI} has no run of it; 'sumgrad resume' updates MLflow"],
    ),
    (STOPPED, None, "KILLED", STOPPED, 143, True, "it was stopped", []),
    (STOPPED, 143, "KILLED", STOPPED, 143, True, "it was stopped", []),
    (STOPPED, 130, "KILLED", STOPPED, 130, True, "it was interrupted", []),
    (STOPPED, -9, "KILLED", STOPPED, 137, True, "it was stopped", []),
    (STOPPED, None, None, STOPPED, 143, True, "it was stopped", []),
    (
        *(STOPPED, None, "RUNNING", STOPPED, 143, True, "it was stopped"),
        [f"Ray has it as STOPPED, MLflow still as RUNNING: {KILLED}"],
    ),
    (
        *(STOPPED, None, "FINISHED", STOPPED, 143, True, "it was stopped"),
        ["Ray has it as STOPPED, MLflow as FINISHED"],
    ),
    (FAILED, 143, "KILLED", STOPPED, 143, True, "it was stopped", []),
    (FAILED, 130, "KILLED", STOPPED, 130, True, "it was interrupted", []),
    (FAILED, -15, "KILLED", STOPPED, 143, True, "it was stopped", []),
    (FAILED, -2, "KILLED", STOPPED, 130, True, "it was interrupted", []),
    (FAILED, 1, "FAILED", FAILED, 1, None, "it failed (exit code 1)", []),
    (FAILED, 2, None, FAILED, 2, False, "the job cannot run as it is (exit code 2)", []),
    (
        *(FAILED, 3, "FAILED", FAILED, 3, True),
        *("workers or MLflow were not available (exit code 3)", []),
    ),
    (FAILED, 77, "FAILED", FAILED, 77, True, "it failed (exit code 77)", []),
    (
        *(FAILED, -9, "RUNNING", FAILED, 137, True, "its process was lost: Ray does not know why"),
        [f"Ray has it as FAILED, MLflow still as RUNNING: {KILLED}"],
    ),
    (FAILED, None, "FAILED", FAILED, 1, True, "its process was lost: Ray does not know why", []),
    (
        *(FAILED, 1, "FINISHED", FAILED, 1, None, "it failed (exit code 1)"),
        ["Ray has it as FAILED, MLflow as FINISHED"],
    ),
]


@pytest.mark.parametrize("beat", [None, TRAINING, STALE])
@pytest.mark.parametrize(
    ("ray", "code", "run", "state", "exit_code", "can_resume", "reason", "differences"), OVER
)
def test_a_job_that_has_ended(
    ray: str,
    code: int | None,
    run: str | None,
    state: str,
    exit_code: int,
    can_resume: bool | None,
    reason: str,
    differences: list[str],
    beat: Heartbeat | None,
) -> None:
    found = reconcile(job(ray, code), view(run, beat), NOW)
    assert (found.state, found.exit_code, found.reason) == (state, exit_code, reason)
    assert found.can_resume is can_resume
    assert found.differences == differences
    assert found.heartbeat_age_s is None
    assert found.epoch == (beat.epoch if beat else None)


@pytest.mark.parametrize(
    ("run", "stop_reason", "can_resume", "reason"),
    [
        ("FAILED", "diverged", False, "the training diverged (exit code 1)"),
        ("FAILED", "failed", True, "it failed (exit code 1)"),
        ("FAILED", "OSError: [Errno 28] No space left", True, "it failed (exit code 1)"),
        # The reason is of an earlier attempt.
        ("KILLED", "terminated", None, "it failed (exit code 1)"),
        ("RUNNING", "diverged", None, "it failed (exit code 1)"),
        (None, "", None, "it failed (exit code 1)"),
    ],
)
def test_the_run_knows_whether_a_failure_can_be_resumed(
    run: str | None, stop_reason: str, can_resume: bool | None, reason: str
) -> None:
    seen = replace(view(run), stop_reason=stop_reason)
    found = reconcile(job(FAILED, 1), seen, NOW)
    assert (found.can_resume, found.reason) == (can_resume, reason)
    command = "Resume it:  sumgrad resume job --cluster lab"
    assert (command in status_lines(found, seen, LAB)) is (can_resume is True)
    # Here Ray's exit code suffices.
    assert reconcile(job(FAILED, 2), seen, NOW).can_resume is False
    assert reconcile(job(FAILED, 3), seen, NOW).can_resume is True
    assert status_without_ray("job", view("FAILED")).can_resume is False
    lost = status_without_ray("job", seen).can_resume
    assert lost is (run in ("KILLED", "RUNNING") or can_resume is True)


@pytest.mark.parametrize(
    ("ray", "state", "reason"),
    [
        (PENDING, PENDING, "Ray has not started it yet"),
        (RUNNING, RUNNING, "according to Ray alone"),
        (SUCCEEDED, FINISHED, "it finished"),
        (STOPPED, STOPPED, "it was stopped"),
    ],
)
def test_without_mlflow_the_status_is_rays(ray: str, state: str, reason: str) -> None:
    found = reconcile(job(ray), RunView(uri=URI, problem="it is away"), NOW)
    assert (found.state, found.reason) == (state, reason)
    assert found.differences == ["only Ray was asked: it is away"]
    assert found.run_id is None


def test_all_fields_of_a_running_job() -> None:
    found = reconcile(job(RUNNING), view("RUNNING", TRAINING), NOW)
    assert found == Status(
        job_id="job",
        name="digits",
        state=RUNNING,
        reason="3 of at most 20 epochs done",
        attempt=1,
        submission_id="job",
        ray_state=RUNNING,
        run_id=RUN,
        epoch=3,
        epochs=20,
        loss=0.25,
        heartbeat_age_s=5.0,
        start_time=START,
    )
    assert asdict(found)["heartbeat_age_s"] == 5.0


@pytest.mark.parametrize("status", ["RUNNING", "KILLED"])
def test_a_heartbeat_of_the_attempt_before_is_ignored(status: str) -> None:
    stopped = attempt("job", STOPPED, start_time=START - 100)
    again = attempt("job~2", RUNNING, number=2, start_time=START)
    (found,) = group_by_job([stopped, again])
    last = replace(TRAINING, at=START - 1)
    how = reconcile(found, view(status, last), START + 2)
    assert (how.state, how.reason) == (RUNNING, "according to Ray alone")
    assert (how.attempt, how.submission_id) == (2, "job~2")
    assert how.differences == []
    assert how.heartbeat_age_s is None
    own = reconcile(found, view("RUNNING", replace(last, attempt=2)), START + 2)
    assert own.state == RUNNING, "the cluster's clock is a little behind"


@pytest.mark.parametrize("number", [1, 2])
def test_the_first_epoch_of_an_attempt_has_no_number(number: int) -> None:
    (found,) = group_by_job([attempt("job~2", RUNNING, number=number, start_time=START)])
    beat = Heartbeat(NOW - 5, is_training=True, epochs=3000, attempt=number)
    how = reconcile(found, view("RUNNING", beat), NOW)
    assert (how.state, how.reason) == (RUNNING, FIRST)
    assert (how.epoch, how.epochs, how.loss) == (None, 3000, None)
    later = reconcile(found, view("RUNNING", replace(beat, epoch=893)), NOW)
    assert (later.epoch, later.reason) == (893, "893 of at most 3000 epochs done")


@pytest.mark.parametrize(
    ("run", "state", "exit_code"),
    [
        ("FINISHED", FINISHED, 0),
        ("FAILED", FAILED, None),
        ("KILLED", STOPPED, None),
        ("RUNNING", FAILED, None),
    ],
)
def test_a_job_that_ray_has_lost(run: str, state: str, exit_code: int | None) -> None:
    seen = replace(view(run, replace(TRAINING, attempt=3)), name="digits")
    found = status_without_ray("job", seen)
    assert (found.name, found.attempt, found.state) == ("digits", 3, state)
    assert (found.exit_code, found.ray_state, found.epoch) == (exit_code, "", 3)
    unknown = status_without_ray("job", view(run))
    assert (unknown.name, unknown.attempt, unknown.exit_code) == (None, None, exit_code)
    assert status_lines(unknown, view(run), LAB)[0] == f"job  {state}"


def test_a_missing_start_time_is_accepted() -> None:
    (found,) = group_by_job([attempt("job", RUNNING, start_time=None)])
    assert reconcile(found, view("RUNNING"), NOW).differences == []
    assert reconcile(found, view(None), NOW).differences == []
    assert reconcile(found, view("RUNNING", TRAINING), NOW).state == RUNNING


@pytest.mark.parametrize("age", [0.0, HEARTBEAT_TIMEOUT_S])
def test_a_short_silence_is_no_difference(age: float) -> None:
    for beat in (replace(TRAINING, at=NOW - age), replace(TRAINING, at=NOW + age)):
        found = reconcile(job(RUNNING), view("RUNNING", beat), NOW)
        assert found.differences == []
        assert found.heartbeat_age_s == max(0.0, NOW - beat.at)
    (young,) = group_by_job([attempt("job", RUNNING, start_time=NOW - age)])
    assert reconcile(young, view("RUNNING"), NOW).differences == []
    assert reconcile(young, view(None), NOW).differences == []


def test_rays_message_is_shortened() -> None:
    message = "\nThe job's node died, last available logs (truncated):\nTraceback\n  lots\n"
    found = reconcile(job(FAILED, None, message), view("RUNNING"), NOW)
    assert found.reason == "its process was lost: The job's node died"
    assert len(reconcile(job(FAILED, None, "x" * 9000), view(None), NOW).reason) < 300
    waiting = reconcile(job(PENDING, None, "Waiting for resources"), view(None), NOW)
    assert waiting.reason == "Waiting for resources"


def test_lines_of_text() -> None:
    run = view("RUNNING", replace(TRAINING, at=NOW - 61))
    assert status_lines(reconcile(job(RUNNING), run, NOW), run, LAB) == [
        "job  RUNNING  attempt 1",
        "  cluster    lab (http://lab:8265)",
        "  reason     3 of at most 20 epochs done",
        "  loss       0.2500 after epoch 3",
        "  heartbeat  61 s ago",
        f"  run        {RUN} in {URI}",
        f"  page       {URI}/#/runs/0ab",
        f"  differs    {HANGS}, or it cannot reach MLflow",
    ]
    nothing = view(None)
    assert status_lines(reconcile(job(STOPPED), nothing, NOW), nothing, LAB) == [
        "job  STOPPED  attempt 1",
        "  cluster    lab (http://lab:8265)",
        "  reason     it was stopped",
        "Resume it:  sumgrad resume job --cluster lab",
    ]
