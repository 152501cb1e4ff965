"""Names of jobs and of their attempts.

A job keeps its id for life. Each time it is handed to Ray, which takes no id twice, is an attempt:
the first has the job's own id, those that go on with it are ``<id>~2``, ``<id>~3``, ….
With a dot, Ray would write into the first one's log what it does about the second.
"""

import re
import secrets

from sumgrad.jobs.errors import SubmissionError

#: Metadata of a submission that names its job; how we know our own among others' submissions.
JOB_KEY = "sumgrad.job"
NAME_KEY = "sumgrad.name"
ATTEMPT_KEY = "sumgrad.attempt"
#: Also the tag of the job's run in MLflow.
JOB_TAG = "sumgrad.job"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{2,62}")


def new_job_id(name: str) -> str:
    """An id that nobody else has, which begins with the job's name.

    >>> new_job_id("My digits!")[:10]
    'my-digits-'
    """
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "job"
    return f"{words}-{secrets.token_hex(4)}"


def is_job_id(text: str) -> bool:
    """Whether a job may have this id."""
    return _ID.fullmatch(text) is not None


def check_job_id(text: str) -> str:
    """An id that a person chose.

    Raises:
        SubmissionError: It cannot be one.
    """
    if not is_job_id(text):
        raise SubmissionError(
            f"'{text}' cannot be a job's id",
            hint="3 to 63 letters, digits, dashes and underscores, a letter or a digit first",
        )
    return text


def submission_id(job_id: str, attempt: int) -> str:
    """Ray's name of an attempt.

    >>> submission_id("digits-1", 1), submission_id("digits-1", 2)
    ('digits-1', 'digits-1~2')
    """
    return job_id if attempt == 1 else f"{job_id}~{attempt}"
