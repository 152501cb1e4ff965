"""Ids of jobs and of their attempts.

A job keeps its id for life. Each submission to Ray, which accepts no id twice, is an attempt: the
first one has the job's id, resumed ones are ``<id>~2``, ``<id>~3``, …. With a dot for the tilde,
Ray would write its own messages about the second attempt into the log of the first one.
"""

import re
import secrets

from sumgrad.jobs.errors import SubmissionError

#: Metadata of a submission; only sumgrad's jobs have the first key.
JOB_KEY, NAME_KEY, ATTEMPT_KEY = "sumgrad.job", "sumgrad.name", "sumgrad.attempt"
#: Whose code runs the job, "local" for the submitter's or "cluster": in Ray, and a tag in MLflow.
CODE_KEY, CLUSTER_CODE = "sumgrad.code", "cluster"
#: Tags of a job's run in MLflow: the job's id, and its folder on the cluster's head.
JOB_TAG, FOLDER_TAG = "sumgrad.job", "sumgrad.folder"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{2,62}")


def new_job_id(name: str) -> str:
    """Return a unique id that starts with the job's name.

    >>> new_job_id("My digits!")[:10]
    'my-digits-'
    """
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "job"
    return f"{words}-{secrets.token_hex(4)}"


def is_job_id(text: str) -> bool:
    """Return whether a text is a valid job id."""
    return _ID.fullmatch(text) is not None


def check_job_id(text: str) -> str:
    """Return a job id that a user chose, or raise `SubmissionError` if it is invalid."""
    if not is_job_id(text):
        hint = "3 to 63 letters, digits, dashes and underscores, a letter or a digit first"
        raise SubmissionError(f"'{text}' cannot be a job's id", hint=hint)
    return text
