"""The status of a job, from Ray, its run in MLflow and its heartbeat.

No single source is right. Ray shows a job as RUNNING while it waits for CPUs, and MLflow shows a
run as RUNNING after its process was killed. A job without a heartbeat may only have lost its
connection to MLflow; then its log, which Ray has, shows its progress. The status lists every
contradiction between the sources.
"""

import re
import signal
from dataclasses import dataclass, field
from typing import Any

from sumgrad.jobs.config.clusters import Cluster
from sumgrad.jobs.service.client.run_view import RunView
from sumgrad.jobs.service.heartbeat import HEARTBEAT_TIMEOUT_S, TRAINING_STARTED, Heartbeat
from sumgrad.jobs.service.states import (
    FAILED,
    FINISHED,
    PENDING,
    RUNNING,
    SIGNAL_BASE,
    STOPPED,
    SUCCEEDED,
    Attempt,
    Job,
)
from sumgrad.jobs.service.versions import VERSION_MISMATCH
from sumgrad.jobs.support.text import one_line

_EPOCH_LINE = re.compile(r"epoch (\d+)/(\d+)  ")  #: A line of the log about a finished epoch.
_FIRST_EPOCH = "in the first epoch of this attempt"
_MAX_REASON = 200
_REASONS = {
    2: "the job cannot run as it is",
    3: "workers or MLflow were not available",
    130: "it was interrupted",
    143: "it was stopped",
}
_SYNC = "'sumgrad resume' updates MLflow"
_UNREPORTED = f"still as RUNNING: the job was killed, or MLflow was unreachable; {_SYNC}"
#: A run's status in MLflow: after an attempt with a state of Ray, and for a job unknown to Ray.
_EXPECTED = {SUCCEEDED: ("FINISHED",), STOPPED: ("KILLED",), FAILED: ("FAILED", "KILLED")}
_STATE_BY_RUN = {"FINISHED": FINISHED, "FAILED": FAILED, "KILLED": STOPPED}


@dataclass(frozen=True)
class Status:
    """The status of a job; what is not known is None."""

    job_id: str
    name: str | None
    state: str  #: PENDING, RUNNING, FINISHED, FAILED or STOPPED.
    reason: str
    attempt: int | None
    submission_id: str
    ray_state: str = ""  #: Ray's own state; empty if Ray does not know the job.
    exit_code: int | None = None
    can_resume: bool | None = False
    run_id: str | None = None
    epoch: int | None = None  #: Finished epochs; None until this attempt has finished one.
    epochs: int | None = None  #: The largest number of epochs.
    loss: float | None = None  #: The loss of the training rows in the last finished epoch.
    heartbeat_age_s: float | None = None
    start_time: float | None = None  #: When the attempt was submitted, in seconds since 1970.
    end_time: float | None = None
    differences: list[str] = field(default_factory=list)  #: Contradictions between the sources.


def reconcile(job: Job, run: RunView, now: float, log: str | None = None) -> Status:
    """Return the status that Ray, MLflow and the heartbeat give together.

    ``now`` is in seconds since 1970; ``log`` is what the attempt has printed, if `needs_log`.
    """
    attempt = job.effective
    beat = current_heartbeat(job, run.heartbeat)
    state, reason = _state(attempt, run, beat, now, log)
    resumable = attempt.can_resume
    differences = _differences(attempt, run, beat, now)
    if attempt is not job.latest:
        differences.insert(0, f"attempt {job.latest.number} to resume it was refused: see its log")
    return Status(
        job_id=job.job_id,
        name=job.name,
        state=state,
        reason=reason,
        attempt=attempt.number,
        submission_id=attempt.submission_id,
        ray_state=attempt.ray_state,
        exit_code=attempt.exit_code if attempt.has_ended else None,
        can_resume=run.can_resume if resumable is None else resumable,
        run_id=run.run_id,
        heartbeat_age_s=max(0.0, now - beat.at) if beat and not attempt.has_ended else None,
        start_time=attempt.start_time,
        end_time=attempt.end_time,
        differences=differences,
        **_progress(beat),
    )


def status_without_ray(job_id: str, run: RunView) -> Status:
    """Return the status of a job with a run in MLflow, which Ray lost in a restart."""
    state = _STATE_BY_RUN.get(run.status or "", FAILED)
    differences = [f"MLflow has it as {run.status}, and Ray does not know it"]
    if run.status == "RUNNING":
        differences.append("it ended with the Ray that ran it, or this is another cluster")
    return Status(
        job_id=job_id,
        name=run.name or None,
        state=state,
        reason="Ray does not know it: its head was restarted",
        attempt=run.attempt,
        submission_id="",
        exit_code=0 if state == FINISHED else None,
        can_resume=run.status in ("KILLED", "RUNNING") or run.can_resume is True,
        run_id=run.run_id,
        differences=differences,
        **_progress(run.heartbeat),
    )


def current_heartbeat(job: Job, beat: Heartbeat | None) -> Heartbeat | None:
    """Return the heartbeat unless an earlier attempt, or an earlier job of that id, sent it."""
    start = job.effective.start_time
    if beat is None or beat.attempt != job.effective.number:
        return None
    return None if start is not None and beat.at < start - HEARTBEAT_TIMEOUT_S else beat


def needs_log(job: Job, run: RunView, now: float) -> bool:
    """Return whether only its log can show what a job does."""
    beat = current_heartbeat(job, run.heartbeat)
    return job.effective.ray_state == RUNNING and not (beat and beat.is_current(now))


def status_lines(status: Status, run: RunView, cluster: Cluster) -> list[str]:
    """Return the status of a job on a cluster as lines of text."""
    loss, age = status.loss, status.heartbeat_age_s
    fields = {
        "cluster": cluster.label,
        "reason": status.reason,
        "loss": "" if loss is None else f"{loss:.4f} after epoch {status.epoch}",
        "heartbeat": "" if age is None else f"{age:.0f} s ago",
        "run": f"{status.run_id} in {run.uri}" if status.run_id else "",
        "page": run.page or "",
    }
    attempt = f"  attempt {status.attempt}" if status.attempt else ""
    lines = [f"{status.job_id}  {status.state}{attempt}"]
    lines += [f"  {name:<10} {text}" for name, text in fields.items() if text]
    lines += [f"  differs    {text}" for text in status.differences]
    if status.can_resume:
        lines.append(f"Resume it:  {cluster.command(f'resume {status.job_id}')}")
    return lines


def _progress(beat: Heartbeat | None) -> dict[str, Any]:
    if beat is None:
        return {}
    return {"epoch": beat.epoch or None, "epochs": beat.epochs, "loss": beat.loss}


def _state(
    attempt: Attempt, run: RunView, beat: Heartbeat | None, now: float, log: str | None
) -> tuple[str, str]:
    """Return the state and its reason."""
    state = attempt.state
    if state == PENDING:
        return PENDING, one_line(attempt.message, _MAX_REASON) or "Ray has not started it yet"
    if state == FINISHED:
        return FINISHED, "it finished"
    if state == STOPPED:
        return STOPPED, _REASONS.get(attempt.exit_code, _REASONS[143])
    if state == FAILED:
        return FAILED, _failure(attempt, run)
    if beat is None or not beat.is_current(now):
        return (RUNNING, "according to Ray alone") if log is None else _state_by_log(log)
    if not beat.is_training:
        return PENDING, one_line(beat.note, _MAX_REASON) or "it is starting"
    done = f"{beat.epoch} of at most {beat.epochs} epochs done"
    return RUNNING, done if beat.epoch else _FIRST_EPOCH


def _state_by_log(log: str) -> tuple[str, str]:
    lines = [line for line in log.splitlines() if line.strip()]
    for line in reversed(lines):
        if found := _EPOCH_LINE.match(line):
            return RUNNING, f"{found[1]} of at most {found[2]} epochs done, according to its log"
        if line == TRAINING_STARTED:
            return RUNNING, f"{_FIRST_EPOCH}, according to its log"
    return PENDING, one_line(lines[-1], _MAX_REASON) if lines else "it is starting"


def _failure(attempt: Attempt, run: RunView) -> str:
    """Return why an attempt failed."""
    code = attempt.driver_exit_code
    if code is None or code < 0:
        first_line = attempt.message.strip().partition("\n")[0]
        # Ray appends the log after this comma.
        cause = one_line(first_line.partition(", last available logs")[0], _MAX_REASON)
        return f"its process was lost: {cause or 'Ray does not know why'}"
    if code > SIGNAL_BASE:
        names = {each.value: each.name for each in signal.Signals}
        name = names.get(code - SIGNAL_BASE, "a signal")
        return f"{name} ended its process, perhaps because memory ran out"
    if VERSION_MISMATCH in attempt.message:
        return f"{VERSION_MISMATCH}, and nothing was computed"
    has_diverged = code == 1 and run.can_resume is False
    reason = "the training diverged" if has_diverged else _REASONS.get(code, "it failed")
    return f"{reason} (exit code {code})"


def _differences(attempt: Attempt, run: RunView, beat: Heartbeat | None, now: float) -> list[str]:
    """Return the contradictions between Ray, MLflow and the heartbeat."""
    if run.problem:
        return [f"only Ray was asked: {run.problem}"]
    ray, age = f"Ray has it as {attempt.ray_state}", now - (attempt.start_time or now)
    is_late = attempt.ray_state == RUNNING and age > HEARTBEAT_TIMEOUT_S
    if run.run_id is None:
        if attempt.ray_state == SUCCEEDED:
            return [f"{ray}, and {run.uri} has no run of it; {_SYNC}"]
        return [f"{ray} for {age:.0f} s, and {run.uri} has no run of it"] if is_late else []
    if attempt.has_ended:
        if run.status in _EXPECTED[attempt.ray_state]:
            return []
        is_open = run.status == "RUNNING"
        return [f"{ray}, MLflow {_UNREPORTED if is_open else f'as {run.status}'}"]
    if beat is None:
        return [f"{ray}, and it has sent no heartbeat for {age:.0f} s"] if is_late else []
    found = []
    if run.status != "RUNNING":
        found.append(f"MLflow has it as {run.status}, and Ray as {attempt.ray_state}: it is ending")
    silence = now - beat.at
    if silence > HEARTBEAT_TIMEOUT_S:
        problem = f"{ray}, and its last heartbeat is {silence:.0f} s old"
        found.append(f"{problem}: it hangs, or it cannot reach MLflow")
    elif silence < -HEARTBEAT_TIMEOUT_S:
        found.append(f"the cluster's clock is {-silence:.0f} s ahead of this one")
    return found
