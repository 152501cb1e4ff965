"""Finishing a run: the saved model, the record of how it ended, the delivery and the summary."""

import json
import time
from contextlib import suppress
from dataclasses import asdict, replace

from pydantic import TypeAdapter

from sumgrad.cluster.training.state import TrainingResult
from sumgrad.jobs.artifacts.saved_model import SavedModel, save_model
from sumgrad.jobs.errors import Interrupted, RunDamaged
from sumgrad.jobs.runs.directory import RunDirectory
from sumgrad.jobs.runs.evaluate import Rejection, measure_rejection
from sumgrad.jobs.runs.signals import StopRequest
from sumgrad.jobs.runs.signature import EARLIER_CODE
from sumgrad.jobs.runs.start import ActiveRun, undo_start
from sumgrad.jobs.runs.summary import Summary
from sumgrad.jobs.runs.sync import sync
from sumgrad.jobs.runs.train_loop import RunResult, evaluation_metrics
from sumgrad.jobs.support.files import write_text
from sumgrad.jobs.support.redaction import redact
from sumgrad.jobs.support.text import describe_error
from sumgrad.jobs.tracking.metadata import RunEnd, RunRecord
from sumgrad.jobs.tracking.run_tracker import RESPONSE_TIMEOUT_S
from sumgrad.model.parameters import weights_sha256

SUMMARY = "summary.json"
#: How long the end of a run waits for MLflow after a signal before its first step, or a second one.
_URGENT_TIMEOUT_S = 2.0


def save_run(run: ActiveRun, result: RunResult, started: float) -> Summary:
    """Save the model, record how the run ended, and deliver it; `started` is a `time.monotonic`.

    Raises:
        ModelNotSaved, OSError: The disk is full, for example.
    """
    training, directory, data = result.training, run.directory, run.job.data
    model = _save_model(run, training)
    reject = run.job.spec.data.reject
    rejection = measure_rejection(model, data, reject.unseen) if reject else None
    step = training.report.epoch if training.report else 0
    rejected = rejection.metrics() if rejection else {}
    run.outbox.log(step, rejected | evaluation_metrics("test", result.test))
    tags = {
        "sumgrad.weights_sha256": weights_sha256(training.W),
        "sumgrad.model_folder": str(directory.model),
        "sumgrad.instances_seen": str(training.instances),
        **{f"sumgrad.not_finite.{k}": f"from step {s}" for k, s in run.outbox.non_finite.items()},
    }
    if earlier_code := directory.record.signature.get(EARLIER_CODE):
        tags["sumgrad.earlier_code"] = ", ".join(earlier_code)
    if training.failure:
        tags["sumgrad.error"] = str(training.failure)
    summary = _summarize(run, result, rejection)
    summary.wall_s = time.monotonic() - started
    write_text(directory.path / SUMMARY, json.dumps(asdict(summary)))
    end = RunEnd(result.status, training.reason.value, tags, step, result.can_resume)
    # On disk first: `sumgrad sync` delivers the run if this process or MLflow fails from here on.
    directory.update(end=end)
    is_delivered = run.tracker.finish(end, run.outbox.unwritten())
    return replace(summary, is_delivered=is_delivered, wall_s=time.monotonic() - started)


def record_early_end(
    run: ActiveRun, error: BaseException, stop: StopRequest, earlier: RunRecord | None
) -> None:
    """Record what has ended a run early, so that it does not stay RUNNING.

    A run that MLflow refuses is undone, given the earlier record of a resumed one.
    """
    if error is run.tracker.refusal:
        undo_start(run, earlier)
    elif run.directory.record.end is None:
        reason = stop.reason or f"{type(error).__name__}: {error}"
        is_failure = isinstance(error, Exception) and not isinstance(error, Interrupted)
        end = RunEnd("FAILED" if is_failure else "KILLED", str(reason))
        # MLflow gets the status even if the disk is full.
        with suppress(OSError):
            run.directory.update(end=end)
        timeout = _URGENT_TIMEOUT_S if stop.reason else RESPONSE_TIMEOUT_S
        run.tracker.finish(end, run.outbox.unwritten(), timeout)


def deliver_finished(directory: RunDirectory, tracking_uri: str) -> Summary:
    """Deliver the rest of a finished run, and return its summary.

    Raises:
        TrackingError: MLflow does not answer or refuses the run.
        RunDamaged: The file with the summary is damaged.
    """
    is_delivered = sync(directory, tracking_uri)
    file = directory.path / SUMMARY
    try:
        summary = TypeAdapter(Summary).validate_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise RunDamaged(f"{file} is damaged: {describe_error(error)}") from None
    uri, model = redact(tracking_uri), str(directory.model)
    return replace(summary, is_delivered=is_delivered, tracking_uri=uri, model_folder=model)


def _save_model(run: ActiveRun, training: TrainingResult) -> SavedModel:
    job = run.job
    metadata = {
        "run_id": run.directory.record.run_id,
        "seed": job.spec.seed,
        "epochs": training.epochs,
        "stop_reason": training.reason.value,
        "data_digest": job.data.digest,
    }
    parameters = job.network.parameters(training.W)
    model = SavedModel(job.spec.name, job.network, parameters, job.data.schema, metadata)
    save_model(run.directory.model, model)
    return model


def _summarize(run: ActiveRun, result: RunResult, rejection: Rejection | None) -> Summary:
    training, report = result.training, result.training.report
    return Summary(
        name=run.job.spec.name,
        status=result.status,
        stop_reason=training.reason,
        tracking_uri=redact(run.job.spec.tracking.uri),
        run_id=run.directory.record.run_id,
        epochs=training.epochs,
        steps=training.steps,
        instances_seen=training.instances,
        train_loss=report.train_loss if report else None,
        validation_loss=report.validation.loss if report and report.validation else None,
        test=result.test,
        weights_sha256=weights_sha256(training.W),
        model_folder=str(run.directory.model),
        run_folder=str(run.directory.path),
        can_resume=result.can_resume,
        samples_per_s=training.instances / training.seconds if training.seconds else None,
        best_epoch=report.epoch if report and report.epoch != training.epochs else None,
        rejection=rejection.lines() if rejection else [],
    )
