"""What is left of a run: the saved model, how it ended, what MLflow is told, the summary."""

from dataclasses import dataclass

from sumgrad.cluster.training.stopping import RESUMABLE
from sumgrad.jobs.artifacts.saved_model import SavedModel, save_model
from sumgrad.jobs.runs.directory import RunDirectory, RunEnd
from sumgrad.jobs.runs.job import TrainingJob
from sumgrad.jobs.runs.progress import Reporter
from sumgrad.jobs.runs.rejection import Rejection, measure_rejection
from sumgrad.jobs.runs.start import ActiveRun
from sumgrad.jobs.runs.summary import Summary
from sumgrad.jobs.runs.sync import deliver
from sumgrad.jobs.runs.train_loop import RunResult
from sumgrad.jobs.tracking import redact
from sumgrad.model.parameters import weights_sha256


@dataclass(frozen=True)
class Kept:
    """What is left of a run on disk, and what its model does with non-digits."""

    folder: RunDirectory
    is_delivered: bool
    rejection: Rejection | None


def keep(job: TrainingJob, result: RunResult, begun: ActiveRun, reporter: Reporter) -> Kept:
    """Save the model, record how the run ended, and tell MLflow."""
    outcome, folder = result.outcome, begun.folder
    saved = SavedModel(
        name=job.spec.name,
        network=job.network,
        parameters=job.network.parameters(outcome.W),
        schema=job.data.schema,
        facts={
            "run_id": begun.tracker.run_id or folder.record.run_id,
            "seed": job.spec.seed,
            "epochs": outcome.epochs,
            "stop_reason": outcome.reason.value,
            "data_digest": job.data.digest,
        },
    )
    save_model(folder.model, saved)
    reject = job.spec.data.reject
    rejection = measure_rejection(saved, job.data, reject.unseen) if reject else None
    step = outcome.report.epoch if outcome.report else 0
    begun.tracker.log_epoch(step, _final_metrics(job, result, rejection))
    tags = {
        "sumgrad.stop_reason": outcome.reason.value,
        "sumgrad.weights_sha256": weights_sha256(outcome.W),
        "sumgrad.model_folder": str(folder.model),
        "sumgrad.instances_seen": str(outcome.instances),
    }
    if outcome.failure:
        tags["sumgrad.error"] = str(outcome.failure)
    can_resume = outcome.reason in RESUMABLE
    ending = RunEnd(result.status, outcome.reason.value, tags, step, can_resume)
    # On disk first: whatever happens to MLflow, or to us, from here on can be made up for.
    folder.update(end=ending, is_model_logged=False)
    return Kept(folder, deliver(folder, begun.tracker, reporter.note), rejection)


def _final_metrics(
    job: TrainingJob, result: RunResult, rejection: Rejection | None
) -> dict[str, float]:
    metrics = rejection.metrics() if rejection else {}
    if result.test is not None:
        metrics["test_loss"] = result.test.loss
        if job.is_classification:
            metrics["test_accuracy"] = result.test.accuracy
    return metrics


def summarize(
    job: TrainingJob, result: RunResult, kept: Kept, begun: ActiveRun, wall_s: float
) -> Summary:
    """What a run came to, for its owner."""
    outcome, report, test = result.outcome, result.outcome.report, result.test
    return Summary(
        name=job.spec.name,
        status=result.status,
        stop_reason=outcome.reason,
        tracking_uri=redact(job.spec.tracking.uri),
        run_id=begun.tracker.run_id or kept.folder.record.run_id,
        epochs=outcome.epochs,
        steps=outcome.steps,
        instances_seen=outcome.instances,
        train_loss=report.train_loss if report else None,
        validation_loss=report.validation.loss if report and report.validation else None,
        test_loss=test.loss if test else None,
        test_accuracy=test.accuracy if test and job.is_classification else None,
        test_rows=test.count if test else None,
        weights_sha256=weights_sha256(outcome.W),
        checkpoint=str(kept.folder.model),
        run_folder=str(kept.folder.path),
        can_resume=outcome.snapshot is not None,
        is_delivered=kept.is_delivered,
        wall_s=wall_s,
        samples_per_s=outcome.instances / outcome.seconds if outcome.seconds else None,
        best_epoch=report.epoch if report and report.epoch != outcome.epochs else None,
        rejection=kept.rejection.lines() if kept.rejection else [],
    )
