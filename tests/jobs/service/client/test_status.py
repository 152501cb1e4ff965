"""What Ray, MLflow and the job's own signs of life make together."""

from dataclasses import replace

import pytest

from sumgrad.jobs.errors import JobNotFound
from sumgrad.jobs.service.client.jobs import Job, jobs_in
from sumgrad.jobs.service.client.ray_api import FAILED, PENDING, RUNNING, STOPPED, SUCCEEDED
from sumgrad.jobs.service.client.run_view import RunView
from sumgrad.jobs.service.client.status import (
    Status,
    lines_of,
    needs_log,
    reconcile,
    status_without_ray,
)
from sumgrad.jobs.service.host.heartbeat import HEARTBEAT_TIMEOUT_S, TRAINING_STARTED, Heartbeat
from sumgrad.jobs.service.states import FINISHED
from tests.jobs.service.stand_ins import attempt

BEGAN, NOW = 10_000.0, 10_600.0
URI, RUN = "http://mlflow:5000", "0123456789abcdef"
WAITING = Heartbeat(NOW - 5, note="waiting for 2 CPUs")
TRAINING = Heartbeat(NOW - 5, is_training=True, note="digits", epoch=3, epochs=20, loss=0.25)
OLD = replace(WAITING, at=NOW - 31)
STALE = replace(TRAINING, at=NOW - HEARTBEAT_TIMEOUT_S - 1)
EARLIER = replace(TRAINING, at=BEGAN - HEARTBEAT_TIMEOUT_S - 1)
FUTURE = replace(TRAINING, at=NOW + HEARTBEAT_TIMEOUT_S + 1)
MUTE = Heartbeat(NOW - 5)


def job(state: str, exit_code: int | None = None, message: str = "") -> Job:
    (found,) = jobs_in(
        [attempt("job", state, exit_code=exit_code, message=message, start_time=BEGAN)]
    )
    return found


def view(status: str | None, beat: Heartbeat | None = None) -> RunView:
    return RunView(URI, RUN if status else None, status, beat)


HANGS = "Ray has it as RUNNING, and its last sign of life is 61 s old: it hangs"
LIVING = [
    # Ray, run, heartbeat → state, reason, beginnings of the differences
    (PENDING, None, None, PENDING, "Ray has not started it yet", []),
    (PENDING, "RUNNING", EARLIER, PENDING, "Ray has not started it yet", []),
    (PENDING, "KILLED", EARLIER, PENDING, "Ray has not started it yet", []),
    (RUNNING, "RUNNING", WAITING, PENDING, "waiting for 2 CPUs", []),
    (RUNNING, "RUNNING", MUTE, PENDING, "it is starting", []),
    (RUNNING, "RUNNING", TRAINING, RUNNING, "epoch 3 of at most 20 is done", []),
    (RUNNING, "RUNNING", STALE, RUNNING, "epoch 3 of at most 20 is done", [HANGS]),
    (
        *(RUNNING, "RUNNING", FUTURE, RUNNING, "epoch 3 of at most 20 is done"),
        ["the cluster's clock is 61 s ahead"],
    ),
    (RUNNING, "RUNNING", OLD, RUNNING, "as far as Ray knows", []),
    (
        *(RUNNING, "RUNNING", None, RUNNING, "as far as Ray knows"),
        ["Ray has it as RUNNING, and it has given no sign for 600 s"],
    ),
    (
        *(RUNNING, "RUNNING", EARLIER, RUNNING, "as far as Ray knows"),
        ["Ray has it as RUNNING, and it has given no sign for 600 s"],
    ),
    (
        *(RUNNING, None, None, RUNNING, "as far as Ray knows"),
        [f"Ray has it as RUNNING for 600 s, and {URI} has no run of it"],
    ),
    (
        *(RUNNING, "FINISHED", TRAINING, RUNNING, "epoch 3 of at most 20 is done"),
        ["MLflow has it as FINISHED, and Ray as RUNNING: it is ending"],
    ),
    (
        *(RUNNING, "KILLED", STALE, RUNNING, "epoch 3 of at most 20 is done"),
        ["MLflow has it as KILLED, and Ray as RUNNING: it is ending", HANGS],
    ),
]


@pytest.mark.parametrize(("ray", "run", "beat", "state", "reason", "differences"), LIVING)
def test_a_job_that_goes_on(
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
    for told, expected in zip(found.differences, differences, strict=True):
        assert told.startswith(expected)
    assert found.exit_code is None
    assert not found.can_resume
    assert (found.heartbeat_age_s is None) is (beat in (None, EARLIER))


FIRST = "the first epoch of this attempt is being computed"
EPOCHS = "epoch 1/20  loss 0.5000  9 instances/s\nepoch 2/20  loss 0.4  9 instances/s\nbye\n"
LOGS = [
    # what the job has printed → state, reason
    ("", PENDING, "it is starting"),
    ("digits: reading\n  waiting for 2 CPUs\n\n", PENDING, "waiting for 2 CPUs"),
    (f"on 2 workers\n{TRAINING_STARTED}\n", RUNNING, f"{FIRST}, says its log"),
    (f"{TRAINING_STARTED}\nworker 1 joined\n", RUNNING, f"{FIRST}, says its log"),
    (f"{TRAINING_STARTED}\n{EPOCHS}", RUNNING, "epoch 2 of at most 20 is done, says its log"),
    ("epoch 1 is no line of ours", PENDING, "epoch 1 is no line of ours"),
    ("x" * 900, PENDING, "x" * 200),
]


@pytest.mark.parametrize("beat", [None, OLD, EARLIER])
@pytest.mark.parametrize(("log", "state", "reason"), LOGS)
def test_its_log_says_what_mlflow_has_missed(
    log: str, state: str, reason: str, beat: Heartbeat | None
) -> None:
    run = view("RUNNING", beat)
    assert needs_log(job(RUNNING), run, NOW)
    found = reconcile(job(RUNNING), run, NOW, log)
    assert (found.state, found.reason) == (state, reason)


@pytest.mark.parametrize("beat", [WAITING, MUTE, TRAINING, STALE])
def test_a_log_is_not_asked_for_without_need(beat: Heartbeat) -> None:
    assert not needs_log(job(RUNNING), view("RUNNING", beat), NOW)
    assert not needs_log(job(PENDING), view(None), NOW)
    assert not needs_log(job(STOPPED), view(None), NOW)


KILLED = "it was killed before it could say so, or MLflow was away; 'sumgrad resume' tells it"
OVER = [
    # Ray, code, run → state, exit code, can resume, reason, differences
    (SUCCEEDED, 0, "FINISHED", FINISHED, 0, False, "it came to its end", []),
    (
        *(SUCCEEDED, 0, "RUNNING", FINISHED, 0, False, "it came to its end"),
        [f"Ray has it as SUCCEEDED, MLflow still as RUNNING: {KILLED}"],
    ),
    (
        *(SUCCEEDED, 0, "FAILED", FINISHED, 0, False, "it came to its end"),
        ["Ray has it as SUCCEEDED, MLflow as FAILED"],
    ),
    (
        *(SUCCEEDED, 0, None, FINISHED, 0, False, "it came to its end"),
        [f"Ray has it as SUCCEEDED, and {URI} has no run of it; 'sumgrad resume' tells it"],
    ),
    (STOPPED, None, "KILLED", STOPPED, 143, True, "it was told to end", []),
    (STOPPED, 143, "KILLED", STOPPED, 143, True, "it was told to end", []),
    (STOPPED, 130, "KILLED", STOPPED, 130, True, "it was interrupted", []),
    (STOPPED, -9, "KILLED", STOPPED, 137, True, "it was told to end", []),
    (STOPPED, None, None, STOPPED, 143, True, "it was told to end", []),
    (
        *(STOPPED, None, "RUNNING", STOPPED, 143, True, "it was told to end"),
        [f"Ray has it as STOPPED, MLflow still as RUNNING: {KILLED}"],
    ),
    (
        *(STOPPED, None, "FINISHED", STOPPED, 143, True, "it was told to end"),
        ["Ray has it as STOPPED, MLflow as FINISHED"],
    ),
    (FAILED, 143, "KILLED", STOPPED, 143, True, "it was told to end", []),
    (FAILED, 130, "KILLED", STOPPED, 130, True, "it was interrupted", []),
    (FAILED, -15, "KILLED", STOPPED, 143, True, "it was told to end", []),
    (FAILED, -2, "KILLED", STOPPED, 130, True, "it was interrupted", []),
    (FAILED, 1, "FAILED", FAILED, 1, None, "it failed (exit code 1)", []),
    (FAILED, 2, None, FAILED, 2, False, "the job cannot be run as it is (exit code 2)", []),
    (
        *(FAILED, 3, "FAILED", FAILED, 3, True),
        *("workers or MLflow were not to be had (exit code 3)", []),
    ),
    (FAILED, 77, "FAILED", FAILED, 77, True, "it failed (exit code 77)", []),
    (
        *(FAILED, -9, "RUNNING", FAILED, 137, True, "its process was lost: Ray does not say why"),
        [f"Ray has it as FAILED, MLflow still as RUNNING: {KILLED}"],
    ),
    (FAILED, None, "FAILED", FAILED, 1, True, "its process was lost: Ray does not say why", []),
    (
        *(FAILED, 1, "FINISHED", FAILED, 1, None, "it failed (exit code 1)"),
        ["Ray has it as FAILED, MLflow as FINISHED"],
    ),
]


@pytest.mark.parametrize("beat", [None, TRAINING, STALE])
@pytest.mark.parametrize(
    ("ray", "code", "run", "state", "exit_code", "can_resume", "reason", "differences"), OVER
)
def test_a_job_that_is_over(
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
        # What an earlier attempt has left there says nothing of this one.
        ("KILLED", "terminated", None, "it failed (exit code 1)"),
        ("RUNNING", "diverged", None, "it failed (exit code 1)"),
        (None, "", None, "it failed (exit code 1)"),
    ],
)
def test_what_a_failure_has_left_is_said_by_its_run(
    run: str | None, stop_reason: str, can_resume: bool | None, reason: str
) -> None:
    seen = replace(view(run), stop_reason=stop_reason)
    found = reconcile(job(FAILED, 1), seen, NOW)
    assert (found.can_resume, found.reason) == (can_resume, reason)
    asks = "Go on with it:  sumgrad resume job"
    assert (asks in lines_of(found, seen, "lab")) is (can_resume is True)
    # What Ray knows itself, it needs nobody for.
    assert reconcile(job(FAILED, 2), seen, NOW).can_resume is False
    assert reconcile(job(FAILED, 3), seen, NOW).can_resume is True
    assert status_without_ray("job", view("FAILED")).can_resume is False
    forgotten = status_without_ray("job", seen).can_resume
    assert forgotten is (run in ("KILLED", "RUNNING") or can_resume is True)


@pytest.mark.parametrize(
    ("ray", "state", "reason"),
    [
        (PENDING, PENDING, "Ray has not started it yet"),
        (RUNNING, RUNNING, "as far as Ray knows"),
        (SUCCEEDED, FINISHED, "it came to its end"),
        (STOPPED, STOPPED, "it was told to end"),
    ],
)
def test_where_mlflow_cannot_be_asked_ray_alone_is_believed_and_that_is_said(
    ray: str, state: str, reason: str
) -> None:
    found = reconcile(job(ray), RunView.unknown("it is away", URI), NOW)
    assert (found.state, found.reason) == (state, reason)
    assert found.differences == ["only Ray was asked: it is away"]
    assert found.run_id is None


def test_the_rest_is_passed_on() -> None:
    found = reconcile(job(RUNNING), view("RUNNING", TRAINING), NOW)
    assert found == Status(
        job_id="job",
        name="digits",
        state=RUNNING,
        reason="epoch 3 of at most 20 is done",
        attempt=1,
        submission_id="job",
        ray_state=RUNNING,
        run_id=RUN,
        epoch=3,
        epochs=20,
        loss=0.25,
        heartbeat_age_s=5.0,
        start_time=BEGAN,
    )
    assert found.as_json()["heartbeat_age_s"] == 5.0


@pytest.mark.parametrize("status", ["RUNNING", "KILLED"])
def test_what_an_attempt_said_just_before_its_end_is_not_the_next_ones(status: str) -> None:
    stopped = attempt("job", STOPPED, start_time=BEGAN - 100)
    again = attempt("job~2", RUNNING, number=2, start_time=BEGAN)
    (found,) = jobs_in([stopped, again])
    last = replace(TRAINING, at=BEGAN - 1)
    how = reconcile(found, view(status, last), BEGAN + 2)
    assert (how.state, how.reason) == (RUNNING, "as far as Ray knows")
    assert (how.attempt, how.submission_id) == (2, "job~2")
    assert how.differences == []
    assert how.heartbeat_age_s is None
    own = reconcile(found, view("RUNNING", replace(last, attempt=2)), BEGAN + 2)
    assert own.state == RUNNING, "its own, by a clock that is a little behind"


@pytest.mark.parametrize("number", [1, 2])
def test_epochs_of_earlier_attempts_are_not_denied(number: int) -> None:
    (found,) = jobs_in([attempt("job~2", RUNNING, number=number, start_time=BEGAN)])
    begun = Heartbeat(NOW - 5, is_training=True, epochs=3000, attempt=number)
    how = reconcile(found, view("RUNNING", begun), NOW)
    assert (how.state, how.reason) == (RUNNING, FIRST)
    assert (how.as_json()["epoch"], how.epochs, how.loss) == (None, 3000, None)
    later = reconcile(found, view("RUNNING", replace(begun, epoch=893)), NOW)
    assert (later.epoch, later.reason) == (893, "epoch 893 of at most 3000 is done")


@pytest.mark.parametrize(
    ("run", "state", "exit_code"),
    [
        ("FINISHED", FINISHED, 0),
        ("FAILED", FAILED, None),
        ("KILLED", STOPPED, None),
        ("RUNNING", FAILED, None),
    ],
)
def test_what_mlflow_knows_of_a_job_that_ray_has_forgotten(
    run: str, state: str, exit_code: int | None
) -> None:
    seen = replace(view(run, replace(TRAINING, attempt=3)), name="digits")
    found = status_without_ray("job", seen)
    assert (found.name, found.attempt, found.state) == ("digits", 3, state)
    assert (found.exit_code, found.ray_state, found.epoch) == (exit_code, "", 3)
    unknown = status_without_ray("job", view(run))
    assert (unknown.name, unknown.attempt, unknown.exit_code) == (None, None, exit_code)
    assert lines_of(unknown, view(run), "lab")[0] == f"job  {state}"


def test_a_job_without_a_beginning_is_no_trouble() -> None:
    (found,) = jobs_in([attempt("job", RUNNING, start_time=None)])
    assert reconcile(found, view("RUNNING"), NOW).differences == []
    assert reconcile(found, view(None), NOW).differences == []
    assert reconcile(found, view("RUNNING", TRAINING), NOW).state == RUNNING


@pytest.mark.parametrize("age", [0.0, HEARTBEAT_TIMEOUT_S])
def test_a_short_silence_is_nothing(age: float) -> None:
    for beat in (replace(TRAINING, at=NOW - age), replace(TRAINING, at=NOW + age)):
        found = reconcile(job(RUNNING), view("RUNNING", beat), NOW)
        assert found.differences == []
        assert found.heartbeat_age_s == max(0.0, NOW - beat.at)
    (young,) = jobs_in([attempt("job", RUNNING, start_time=NOW - age)])
    assert reconcile(young, view("RUNNING"), NOW).differences == []
    assert reconcile(young, view(None), NOW).differences == []


def test_rays_words_are_cut_to_the_point() -> None:
    message = "\nThe job's node died, last available logs (truncated):\nTraceback\n  lots\n"
    found = reconcile(job(FAILED, None, message), view("RUNNING"), NOW)
    assert found.reason == "its process was lost: The job's node died"
    assert len(reconcile(job(FAILED, None, "x" * 9000), view(None), NOW).reason) < 300
    waiting = reconcile(job(PENDING, None, "Waiting for resources"), view(None), NOW)
    assert waiting.reason == "Waiting for resources"


def test_lines_for_a_person() -> None:
    run = view("RUNNING", replace(TRAINING, at=NOW - 61))
    assert lines_of(reconcile(job(RUNNING), run, NOW), run, "lab (http://lab:8265)") == [
        "job  RUNNING  attempt 1",
        "  cluster    lab (http://lab:8265)",
        "  reason     epoch 3 of at most 20 is done",
        "  loss       0.2500 after epoch 3",
        "  heartbeat  61 s ago",
        f"  run        {RUN} in {URI}",
        f"  page       {URI}/#/runs/{RUN}",
        f"  differs    {HANGS}, or its way to MLflow is cut",
    ]
    nothing = view(None)
    assert lines_of(reconcile(job(STOPPED), nothing, NOW), nothing, "lab") == [
        "job  STOPPED  attempt 1",
        "  cluster    lab",
        "  reason     it was told to end",
        "Go on with it:  sumgrad resume job",
    ]


def test_no_job_is_no_status() -> None:
    from sumgrad.jobs.service.client.commands import get_status
    from tests.jobs.service.stand_ins import FakeRayJobsClient

    with pytest.raises(JobNotFound):
        get_status(FakeRayJobsClient(), "job")
