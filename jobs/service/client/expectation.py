"""What a cluster had when it was asked, and whether a job that begins still finds it so.

The answer is kept for as long as the cluster runs, and somebody may install something on it
meanwhile. So a job carries what was expected and ends, before its first step, where that is gone.
Who hands in the next one sees it by what Ray has of the job, and asks the cluster anew.
"""

import hashlib
import json
from collections.abc import Iterable

from sumgrad.jobs.errors import ServiceUnreachable
from sumgrad.jobs.service.client.ray_api import Attempt
from sumgrad.jobs.service.versions import MUST_MATCH, Versions

#: Metadata of an attempt: the answer that it relies on.
ANSWER_KEY = "sumgrad.answer"
#: Stands in the error of a job that found another cluster, and so in Ray's message about it.
_CHANGED = "the cluster has changed since it was asked"


def expected_of(here: Versions, there: Versions, *, has_code: bool) -> Versions:
    """What a job has to find when it begins.

    Args:
        here: Of where it is handed in.
        there: What the cluster has said.
        has_code: Whether the code of here goes along.
    """
    whose = here if has_code else there
    return Versions(whose.sumgrad, whose.code, there.python, there.libraries)


def expect_unchanged(expected: Versions, found: Versions) -> None:
    """Raise where a job finds other versions than those that it was sent for.

    Raises:
        ServiceUnreachable: Names what differs.
    """
    differing = [
        f"{what} was {before} and is {now}"
        for what, before, now in expected.differing(found)
        if what in MUST_MATCH
    ]
    if expected.code != found.code:
        before, now = (f"{each.sumgrad} ({each.code})" for each in (expected, found))
        differing.insert(0, f"sumgrad was {before} and is {now}")
    if differing:
        raise ServiceUnreachable(
            f"{_CHANGED}: {'; '.join(differing)}",
            hint="nothing was computed; 'sumgrad resume', or handing it in anew under another id, "
            "asks the cluster again",
        )


def answer_digest(answer: Versions) -> str:
    """Names an answer in an attempt's metadata."""
    text = json.dumps(answer.as_json(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def has_found_a_change(attempt: Attempt) -> bool:
    """Whether an attempt ended because its cluster was another one than it was sent to."""
    return _CHANGED in attempt.message


def is_outdated(answer: Versions, since: float, attempts: Iterable[Attempt]) -> bool:
    """Whether a job that relied on an answer has found another cluster.

    Args:
        answer: What the cluster has said.
        since: When, by its own clock. A cluster that has changed and changed back gives an answer
            again that earlier jobs found to be wrong.
        attempts: What Ray knows of.
    """
    digest = answer_digest(answer)
    return any(
        attempt.metadata.get(ANSWER_KEY) == digest
        and has_found_a_change(attempt)
        and (attempt.start_time is None or attempt.start_time > since)
        for attempt in attempts
    )
