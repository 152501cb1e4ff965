"""Ids of jobs: new ones and chosen ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumgrad.jobs.errors import SubmissionError
from sumgrad.jobs.service.ids import check_job_id, new_job_id
from tests.fuzzing import cases


@cases(200)
@given(name=st.text(max_size=120))
def test_new_ids_are_valid_and_unique_for_every_name(name: str) -> None:
    job_id = new_job_id(name)
    assert check_job_id(job_id) == job_id
    assert new_job_id(name) != job_id


@pytest.mark.parametrize("text", ["abc", "A-1", "0_x", "a" * 63])
def test_valid_ids_are_accepted(text: str) -> None:
    assert check_job_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "ab", "a" * 64, "-abc", "_abc", "a b c", "a/b", "../x", "a.2", "...", "/abc"),
        *("äbc", "abc\n", "abc\0", "a$(x)", "a;b", "a'b", "٣٣٣", "abc~2"),
    ],
)
def test_invalid_ids_are_refused(text: str) -> None:
    with pytest.raises(SubmissionError, match="cannot be a job's id") as caught:
        check_job_id(text)
    assert "3 to 63" in caught.value.hint
