"""Ids of jobs: made, chosen, and numbered."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumgrad.jobs.errors import SubmissionError
from sumgrad.jobs.service.ids import check_job_id, new_job_id, submission_id
from tests.fuzzing import cases


@cases(200)
@given(name=st.text(max_size=120))
def test_every_name_gives_an_id_that_may_be_one(name: str) -> None:
    job_id = new_job_id(name)
    assert check_job_id(job_id) == job_id
    assert new_job_id(name) != job_id, "nobody else has it"


@pytest.mark.parametrize("text", ["abc", "A-1", "0_x", "a" * 63])
def test_what_can_be_an_id(text: str) -> None:
    assert check_job_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "ab", "a" * 64, "-abc", "_abc", "a b c", "a/b", "../x", "a.2", "...", "/abc"),
        *("äbc", "abc\n", "abc\0", "a$(x)", "a;b", "a'b", "٣٣٣"),
    ],
)
def test_what_can_be_no_id(text: str) -> None:
    with pytest.raises(SubmissionError, match="cannot be a job's id") as caught:
        check_job_id(text)
    assert "3 to 63" in caught.value.hint


@cases(200)
@given(
    job_id=st.from_regex(re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{2,62}"), fullmatch=True),
    number=st.integers(1, 10**6),
)
def test_an_attempt_is_not_taken_for_a_job(job_id: str, number: int) -> None:
    name = submission_id(job_id, number)
    assert name.partition("~")[0] == job_id
    if number > 1:
        with pytest.raises(SubmissionError):
            check_job_id(name)
