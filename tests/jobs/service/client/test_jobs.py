"""Jobs: grouped from a cluster's attempts, and found by the start of their id."""

from dataclasses import replace

import pytest

from sumgrad.jobs.errors import JobNotFound
from sumgrad.jobs.service.ids import ATTEMPT_KEY, JOB_KEY
from sumgrad.jobs.service.states import FAILED, RUNNING, STOPPED, group_by_job
from tests.jobs.service.fakes import ADDRESS, FakeRayJobsClient, attempt


def test_attempts_are_ordered_by_number() -> None:
    found = [
        attempt("digits-1~10", number=10, start_time=40.0),
        attempt("digits-1", number=1, start_time=10.0),
        attempt("digits-1~2", RUNNING, number=2, start_time=50.0),
    ]
    (job,) = group_by_job(found)
    assert job.attempts == (found[1], found[2], found[0])
    assert job.latest is found[0]
    assert (job.job_id, job.name, job.latest.number + 1) == ("digits-1", "digits", 11)


def test_the_newest_job_comes_first_and_other_programs_are_left_out() -> None:
    foreign = replace(attempt("raysubmit_1"), metadata={"owner": "other"})
    unnamed = replace(attempt("bare"), metadata={JOB_KEY: "bare"}, start_time=None)
    attempts = [attempt("old", start_time=1.0), foreign, unnamed, attempt("new", start_time=2.0)]
    jobs = group_by_job(attempts)
    assert [job.job_id for job in jobs] == ["new", "old", "bare"]
    assert jobs[-1].name == "?"
    assert group_by_job([]) == group_by_job([foreign]) == []


@pytest.mark.parametrize("number", ["", "x", "0", "-1", "²", "1.5", "٣", "9" * 5000, " 2"])
def test_an_invalid_attempt_number_counts_as_1(number: str) -> None:
    strange = replace(attempt(), metadata={JOB_KEY: "digits-1", ATTEMPT_KEY: number})
    assert group_by_job([strange])[0].latest.number == 1


def test_a_refused_attempt_does_not_decide_the_state() -> None:
    stopped = attempt("digits-1", STOPPED, exit_code=143)
    refused = attempt("digits-1~2", FAILED, number=2, exit_code=2)
    (job,) = group_by_job([stopped, refused])
    assert (job.latest, job.effective, job.effective.number) == (refused, stopped, 1)
    again = attempt("digits-1~3", RUNNING, number=3)
    (job,) = group_by_job([stopped, refused, again])
    assert (job.effective, job.effective.number) == (again, 3)
    (job,) = group_by_job([attempt("digits-1", FAILED, exit_code=2)])
    assert job.effective is job.latest


@pytest.fixture
def client() -> FakeRayJobsClient:
    names = ("digits-1", "digits-2", "digits", "mnist-1")
    return FakeRayJobsClient(*(attempt(name) for name in names))


@pytest.mark.parametrize(
    ("text", "job_id"),
    [("digits-1", "digits-1"), ("digits", "digits"), ("mni", "mnist-1"), ("mnist-1", "mnist-1")],
)
def test_a_job_is_found_by_its_id_or_a_unique_start(
    client: FakeRayJobsClient, text: str, job_id: str
) -> None:
    assert client.find_job(text).job_id == job_id


@pytest.mark.parametrize("text", ["MNIST", "mnist-1.2", "mnist-12", "../x"])
def test_an_unknown_id_is_refused(client: FakeRayJobsClient, text: str) -> None:
    with pytest.raises(JobNotFound, match="has no job") as caught:
        client.find_job(text)
    assert ADDRESS in caught.value.message


@pytest.mark.parametrize("text", ["", "m", "mn", "x", "'"])
def test_a_start_of_fewer_than_three_characters_is_too_short(
    client: FakeRayJobsClient, text: str
) -> None:
    with pytest.raises(JobNotFound, match=f"'{text}' is too short") as caught:
        client.find_job(text)
    assert "3 characters" in caught.value.hint


def test_an_ambiguous_start_names_the_jobs(client: FakeRayJobsClient) -> None:
    with pytest.raises(JobNotFound, match="several jobs start with 'digits-': digits-1, digits-2"):
        client.find_job("digits-")


def test_the_hint_names_the_nearest_job(client: FakeRayJobsClient) -> None:
    with pytest.raises(JobNotFound) as caught:
        client.find_job("mnost-1")
    assert "mnist-1" in caught.value.hint
    with pytest.raises(JobNotFound) as caught:
        FakeRayJobsClient().find_job("mnist-1")
    assert caught.value.hint == "it has no jobs"
