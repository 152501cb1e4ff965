"""What makes a job the same job: everything that its weights depend on, and nothing else."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from sumgrad.cluster.compute.fingerprint import compute_fingerprint
from sumgrad.jobs.errors import CheckpointError
from sumgrad.jobs.runs.job import TrainingJob
from sumgrad.jobs.tracking.metadata import flatten

#: Sections of the spec without any influence on the weights.
_ELSEWHERE = {"name", "cluster", "tracking", "output", "checkpoint"}


def compute_signature(job: TrainingJob) -> dict[str, Any]:
    """The job as JSON can hold it; equal for two jobs if their weights must be.

    Where the rows come from does not count: their digest does. The microbatches' rows are those
    that hold, whether the spec names them or not; of evaluations too, whose sums may decide when
    to stop.
    """
    spec = job.spec.model_dump(mode="json", exclude=_ELSEWHERE)
    for role in ("train", "validation", "test"):
        if isinstance(spec["data"][role], str):
            del spec["data"][role]
    return {
        "spec": spec,
        "data": job.data.digest,
        "microbatch_size": {
            name: plan.microbatch_size for name, plan in job.workload.plans.items()
        },
        "arithmetic": asdict(compute_fingerprint()),
    }


def check_same_job(before: Mapping[str, Any], now: Mapping[str, Any], run: str) -> None:
    """Raise unless a run can go on with this job.

    Raises:
        CheckpointError: Names everything that differs.
    """
    differing = list(differences(before, now))
    if differing:
        raise CheckpointError(
            f"run {run} cannot go on, as its weights would not be those of one job: "
            + "; ".join(differing),
            hint="more workers or another address are no hindrance; or start a new run",
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What differs, as in 'optimizer.eta was 0.3 and is 0.1'."""
    old, new = dict(flatten(before)), dict(flatten(now))
    for key in sorted(old.keys() | new.keys()):
        was, is_now = old.get(key, "not there"), new.get(key, "not there")
        if was != is_now:
            yield f"{key.removeprefix('spec.')} was {was} and is {is_now}"
