"""How a job is, from three witnesses: Ray, the run in MLflow, and the job's own signs of life.

None of them is believed alone. Ray calls a job RUNNING that waits for room, MLflow calls a run
RUNNING whose process was killed, and a job that says nothing may only have lost its way to MLflow:
then its log, which comes by Ray, says what it does. What they disagree in is said.
"""

import re
import signal
from dataclasses import asdict, dataclass, field
from typing import Any

from sumgrad.jobs.runs.record import in_one_line
from sumgrad.jobs.service.client.expectation import has_found_a_change
from sumgrad.jobs.service.client.jobs import Job
from sumgrad.jobs.service.client.ray_api import (
    FAILED,
    PENDING,
    RUNNING,
    STOPPED,
    SUCCEEDED,
    Attempt,
)
from sumgrad.jobs.service.client.run_view import RunView, page_of
from sumgrad.jobs.service.host.heartbeat import (
    HEARTBEAT_INTERVAL_S,
    HEARTBEAT_TIMEOUT_S,
    TRAINING_STARTED,
    Heartbeat,
)
from sumgrad.jobs.service.states import FINISHED, SIGNAL, can_resume, state_of
from sumgrad.jobs.service.states import exit_code as exit_code_of

#: A sign of life that is older says what the job did then, and not what it does.
_CURRENT_S = 3 * HEARTBEAT_INTERVAL_S
#: A line of the log about an epoch that is done.
_EPOCH = re.compile(r"epoch (\d+)/(\d+)  ")
#: What was done by earlier attempts is not counted among the epochs of one that has just begun.
_FIRST_EPOCH = "the first epoch of this attempt is being computed"
_LONGEST_REASON = 200
_SIGNALS = frozenset(signal.Signals)
_WHY = {
    2: "the job cannot be run as it is",
    3: "workers or MLflow were not to be had",
    130: "it was interrupted",
    143: "it was told to end",
}


@dataclass(frozen=True)
class Status:
    """How a job is.

    Attributes:
        job_id: Its id.
        name: Its spec's; None if it is not known.
        state: PENDING (nothing was computed yet), RUNNING, FINISHED, FAILED or STOPPED.
        reason: Why, in a line.
        attempt: The number of the attempt; None if it is not known.
        submission_id: Ray's name of it.
        ray_state: Ray's own word for how it is; empty for one that Ray has forgotten.
        exit_code: Of the job, once it is over; None also if it is not known.
        can_resume: Whether ``sumgrad resume`` makes sense; None if that is not known.
        run_id: In MLflow.
        epoch: Epochs done, of ``epochs`` at most; None until this attempt has done one.
        epochs: The budget.
        loss: Of the training rows in the newest epoch.
        heartbeat_age_s: Seconds since the job's last sign of life.
        began: When it was handed in, in seconds since 1970.
        end_time: When it finished.
        differences: What Ray, MLflow and the job disagree in.
    """

    job_id: str
    name: str | None
    state: str
    reason: str
    attempt: int | None
    submission_id: str
    ray_state: str = ""
    exit_code: int | None = None
    can_resume: bool | None = False
    run_id: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    loss: float | None = None
    heartbeat_age_s: float | None = None
    start_time: float | None = None
    end_time: float | None = None
    differences: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def reconcile(job: Job, run: RunView, now: float, log: str | None = None) -> Status:
    """What the three of them make together.

    Args:
        job: As Ray sees it.
        run: As MLflow sees it, with the job's heartbeat.
        now: In seconds since 1970.
        log: What the attempt has printed, if it was asked for; see `needs_log`.
    """
    attempt = job.counting
    beat = beat_of(job, run.heartbeat)
    state, reason = _state(attempt, run, beat, now, log)
    over = attempt.has_ended
    by_ray = can_resume(attempt)
    return Status(
        job_id=job.job_id,
        name=job.name,
        state=state,
        reason=reason,
        attempt=job.number,
        submission_id=attempt.submission_id,
        ray_state=attempt.state,
        exit_code=exit_code_of(attempt) if over else None,
        can_resume=run.can_resume if by_ray is None else by_ray,
        run_id=run.run_id,
        epoch=_epoch(beat),
        epochs=beat.epochs if beat else None,
        loss=beat.loss if beat else None,
        heartbeat_age_s=max(0.0, now - beat.at) if beat and not over else None,
        start_time=attempt.start_time,
        end_time=attempt.end_time,
        differences=[*_refused(job), *_differences(attempt, run, beat, now)],
    )


def _epoch(beat: Heartbeat | None) -> int | None:
    """Epochs done; None as long as the attempt has done none itself."""
    return beat.epoch or None if beat else None


def _refused(job: Job) -> list[str]:
    if job.counting is job.newest:
        return []
    return [f"attempt {job.next_number - 1} to go on was refused: its log says why"]


def beat_of(job: Job, beat: Heartbeat | None) -> Heartbeat | None:
    """The heartbeat, unless an earlier attempt has left it, or an earlier job of that id."""
    began = job.counting.start_time
    if beat is None or beat.attempt != job.number:
        return None
    return None if began is not None and beat.at < began - HEARTBEAT_TIMEOUT_S else beat


def needs_log(job: Job, run: RunView, now: float) -> bool:
    """Whether only its log can say what a job does: it runs, and MLflow has no current sign."""
    beat = beat_of(job, run.heartbeat)
    return job.counting.state == RUNNING and not (beat and _is_believed(beat, now))


def _is_believed(beat: Heartbeat, now: float) -> bool:
    """Whether a sign of life says what a job does now: who computes does not wait any more."""
    return beat.is_training or now - beat.at <= _CURRENT_S


def _state(
    attempt: Attempt, run: RunView, beat: Heartbeat | None, now: float, log: str | None
) -> tuple[str, str]:
    if attempt.state == PENDING:
        return PENDING, _short(attempt.message) or "Ray has not started it yet"
    if attempt.state == RUNNING:
        return _running(beat, now, log)
    if attempt.state == SUCCEEDED:
        return FINISHED, "it came to its end"
    code = attempt.exit_code
    if state_of(attempt) == STOPPED:
        return STOPPED, _WHY.get(exit_code_of(attempt), "it was told to end")
    if code is not None and code > SIGNAL:
        name = signal.Signals(code - SIGNAL).name if code - SIGNAL in _SIGNALS else "a signal"
        return FAILED, f"its process was ended by {name}, perhaps for want of memory"
    if code is None or code < 0:
        return FAILED, f"its process was lost: {_first_line(attempt)}"
    if has_found_a_change(attempt):
        return FAILED, "its cluster had changed since it was asked, and nothing was computed"
    has_diverged = code == 1 and run.can_resume is False
    why = "the training diverged" if has_diverged else _WHY.get(code, "it failed")
    return FAILED, f"{why} (exit code {code})"


def _running(beat: Heartbeat | None, now: float, log: str | None) -> tuple[str, str]:
    """What an attempt does whose process runs."""
    if beat is not None and _is_believed(beat, now):
        if beat.is_training:
            done = f"epoch {beat.epoch} of at most {beat.epochs} is done"
            return RUNNING, done if beat.epoch else _FIRST_EPOCH
        return PENDING, _short(beat.note) or "it is starting"
    # What is not known is not claimed; how long it has been silent stands among the differences.
    return _by_log(log) if log is not None else (RUNNING, "as far as Ray knows")


def _by_log(log: str) -> tuple[str, str]:
    lines = [line for line in log.splitlines() if line.strip()]
    for line in reversed(lines):
        if found := _EPOCH.match(line):
            return RUNNING, f"epoch {found[1]} of at most {found[2]} is done, says its log"
        if line == TRAINING_STARTED:
            return RUNNING, f"{_FIRST_EPOCH}, says its log"
    return PENDING, _short(lines[-1]) if lines else "it is starting"


def _short(text: str) -> str:
    """Somebody else's words as a reason, for a terminal."""
    return in_one_line(text)[:_LONGEST_REASON]


def _first_line(attempt: Attempt) -> str:
    lines = [line for line in attempt.message.splitlines() if line.strip()]
    # What follows the comma is the log.
    return (
        _short(lines[0].partition(", last available logs")[0]) if lines else "Ray does not say why"
    )


#: What MLflow should say of an attempt that is over.
_EXPECTED = {SUCCEEDED: ("FINISHED",), STOPPED: ("KILLED",), FAILED: ("FAILED", "KILLED")}


def _differences(attempt: Attempt, run: RunView, beat: Heartbeat | None, now: float) -> list[str]:
    if run.problem:
        return [f"only Ray was asked: {run.problem}"]
    if run.run_id is None:
        if attempt.state == SUCCEEDED:
            what = f"Ray has it as {SUCCEEDED}, and {run.uri} has no run of it"
            return [f"{what}; 'sumgrad resume' tells it"]
        since = now - (attempt.start_time or now)
        if attempt.state == RUNNING and since > HEARTBEAT_TIMEOUT_S:
            return [f"Ray has it as {RUNNING} for {since:.0f} s, and {run.uri} has no run of it"]
        return []
    if not attempt.has_ended:
        return _of_living(attempt, run, beat, now)
    expected = _EXPECTED[attempt.state]
    if run.status in expected:
        return []
    if run.status == "RUNNING":
        why = "it was killed before it could say so, or MLflow was away; 'sumgrad resume' tells it"
        return [f"Ray has it as {attempt.state}, MLflow still as RUNNING: {why}"]
    return [f"Ray has it as {attempt.state}, MLflow as {run.status}"]


def _of_living(attempt: Attempt, run: RunView, beat: Heartbeat | None, now: float) -> list[str]:
    found = []
    if run.status != "RUNNING" and beat is not None:
        found.append(f"MLflow has it as {run.status}, and Ray as {attempt.state}: it is ending")
    if beat is None:
        since = now - (attempt.start_time or now)
        if attempt.state == RUNNING and since > HEARTBEAT_TIMEOUT_S:
            found.append(f"Ray has it as RUNNING, and it has given no sign for {since:.0f} s")
    elif now - beat.at > HEARTBEAT_TIMEOUT_S:
        found.append(
            f"Ray has it as {attempt.state}, and its last sign of life is {now - beat.at:.0f} s "
            "old: it hangs, or its way to MLflow is cut"
        )
    elif now - beat.at < -HEARTBEAT_TIMEOUT_S:
        found.append(f"the cluster's clock is {beat.at - now:.0f} s ahead of this one")
    return found


#: What a run's status in MLflow says of a job that Ray has forgotten.
_FORGOTTEN = {"FINISHED": FINISHED, "FAILED": FAILED, "KILLED": STOPPED}


def status_without_ray(job_id: str, run: RunView) -> Status:
    """How a job is that Ray does not know: its head was started anew, or somebody deleted it.

    Args:
        job_id: Its id.
        run: As MLflow sees it; there is one.
    """
    state = _FORGOTTEN.get(run.status or "", FAILED)
    differences = [f"MLflow has it as {run.status}, and Ray does not know it"]
    if run.status == "RUNNING":
        differences.append("its process ended with the Ray that ran it, or Ray was asked elsewhere")
    beat = run.heartbeat
    return Status(
        job_id=job_id,
        name=run.name or None,
        state=state,
        reason="Ray has forgotten it: its head was started anew, or the job was deleted",
        attempt=run.attempt,
        submission_id="",
        exit_code=0 if state == FINISHED else None,
        can_resume=run.status in ("KILLED", "RUNNING") or run.can_resume is True,
        run_id=run.run_id,
        epoch=_epoch(beat),
        epochs=beat.epochs if beat else None,
        loss=beat.loss if beat else None,
        differences=differences,
    )


def lines_of(status: Status, run: RunView, cluster: str, option: str = "") -> list[str]:
    """For a person.

    Args:
        status: How the job is.
        run: Its run.
        cluster: What to call the cluster.
        option: What has to follow a command for it to mean that cluster.
    """
    facts = [
        ("cluster", cluster),
        ("reason", status.reason),
        (
            "loss",
            f"{status.loss:.4f} after epoch {status.epoch}" if status.loss is not None else "",
        ),
        ("heartbeat", _ago(status.heartbeat_age_s)),
        ("run", f"{status.run_id} in {run.uri}" if status.run_id else ""),
        ("page", page_of(run) or ""),
    ]
    attempt = f"  attempt {status.attempt}" if status.attempt else ""
    lines = [f"{status.job_id}  {status.state}{attempt}"]
    lines += [f"  {what:<10} {text}" for what, text in facts if text]
    lines += [f"  differs    {text}" for text in status.differences]
    if status.can_resume:
        lines.append(f"Go on with it:  sumgrad resume {status.job_id}{option}")
    return lines


def _ago(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.0f} s ago"
