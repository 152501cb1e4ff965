"""The signature of a run: all that its weights depend on, and nothing else."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from sumgrad.cluster.compute.fingerprint import compute_fingerprint
from sumgrad.jobs.errors import CheckpointError
from sumgrad.jobs.runs.build import TrainingJob
from sumgrad.jobs.support.source_digest import source_digest
from sumgrad.jobs.support.text import one_line
from sumgrad.jobs.tracking.metadata import flatten

#: Sections of the spec that do not influence the weights.
_OTHER_SECTIONS = {"name", "cluster", "tracking", "output", "checkpoint"}
#: The parts of sumgrad's code that the weights depend on.
_CODE = ("model", "cluster", "jobs/data", "jobs/runs", "jobs/spec")
#: Longer values are cut in messages.
_MAX_VALUE_CHARACTERS = 200
#: The key of the digests of code that computed a part of the run before it was changed.
EARLIER_CODE = "earlier_code"


def compute_signature(job: TrainingJob) -> dict[str, Any]:
    """Return a job's signature as JSON values; jobs with equal signatures have equal weights.

    Data count by their digest, not by their path. The effective microbatch sizes count, even if
    the spec does not set them; those of evaluations too, because an evaluation can stop training.
    """
    spec = job.spec.model_dump(mode="json", exclude=_OTHER_SECTIONS)
    for split in ("train", "validation", "test"):
        if isinstance(spec["data"][split], str):
            del spec["data"][split]
    return {
        "spec": spec,
        "data": job.data.digest,
        "microbatch_size": {
            name: plan.microbatch_size for name, plan in job.workload.plans.items()
        },
        "arithmetic": asdict(compute_fingerprint()),
        "code": _code_digest(),
    }


@functools.cache
def _code_digest() -> str:
    """Return the digest of the code; cached, because later edits do not change what is loaded."""
    return source_digest(*_CODE)


def signature_of_resumed(
    earlier: Mapping[str, Any],
    current: Mapping[str, Any],
    run: str,
    *,
    allow_code_change: bool = False,
) -> dict[str, Any]:
    """Return the signature with which a run is resumed, given those of the run and of the job.

    If other code is allowed, the digest of the earlier code is recorded. Raise `CheckpointError`,
    which names every other difference.
    """
    codes = list(earlier.get(EARLIER_CODE, []))
    earlier = {key: value for key, value in earlier.items() if key != EARLIER_CODE}
    was = earlier.get("code", "unknown")
    if allow_code_change and was != current["code"]:
        codes.append(was)
        earlier = {**earlier, "code": current["code"]}
    if differing := list(_differences(earlier, current)):
        hint = "start a new run; only workers, addresses and limits can be changed"
        if all(text.startswith("code ") for text in differing):
            hint = (
                "resume it with the sumgrad that started it, or accept other weights with "
                "--allow-code-change"
            )
        problem = f"run {run} cannot be resumed, because its weights would differ: "
        raise CheckpointError(problem + "; ".join(differing), hint=hint)
    return {**current, EARLIER_CODE: codes} if codes else dict(current)


def _differences(earlier: Mapping[str, Any], current: Mapping[str, Any]) -> Iterator[str]:
    """Yield what differs, as in 'optimizer.eta was 0.3 and is 0.1'."""
    old, new = dict(flatten(earlier)), dict(flatten(current))
    for key in sorted(old.keys() | new.keys()):
        was, now = old.get(key, "missing"), new.get(key, "missing")
        if was != now:
            was, now = (one_line(value, _MAX_VALUE_CHARACTERS) for value in (was, now))
            yield f"{key.removeprefix('spec.')} was {was} and is {now}"
