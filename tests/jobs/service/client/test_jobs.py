"""Jobs among what a cluster was handed in, and how one is named."""

from dataclasses import replace

import pytest

from sumgrad.jobs.errors import JobNotFound
from sumgrad.jobs.service.client.jobs import find_job, jobs_in
from sumgrad.jobs.service.client.ray_api import FAILED, RUNNING, STOPPED
from sumgrad.jobs.service.ids import ATTEMPT_KEY, JOB_KEY
from tests.jobs.service.stand_ins import ADDRESS, FakeRayJobsClient, attempt


def test_attempts_belong_to_their_job_the_newest_last() -> None:
    found = [
        attempt("digits-1~10", number=10, start_time=40.0),
        attempt("digits-1", number=1, start_time=10.0),
        attempt("digits-1~2", RUNNING, number=2, start_time=50.0),
    ]
    (job,) = jobs_in(found)
    assert [each.submission_id for each in job.attempts] == [
        "digits-1",
        "digits-1~2",
        "digits-1~10",
    ]
    assert job.newest is found[0]
    assert (job.job_id, job.name, job.next_number) == ("digits-1", "digits", 11)


def test_the_newest_job_comes_first_and_others_are_left_out() -> None:
    foreign = replace(attempt("raysubmit_1"), metadata={"owner": "somebody"})
    nameless = replace(attempt("bare"), metadata={JOB_KEY: "bare"}, start_time=None)
    jobs = jobs_in(
        [attempt("old", start_time=1.0), foreign, nameless, attempt("new", start_time=2.0)]
    )
    assert [job.job_id for job in jobs] == ["new", "old", "bare"]
    assert jobs[-1].name == "?"
    assert jobs_in([]) == jobs_in([foreign]) == []


@pytest.mark.parametrize("number", ["", "x", "0", "-1", "²", "1.5", "٣", "9" * 5000, " 2"])
def test_a_number_that_makes_no_sense_is_the_first(number: str) -> None:
    strange = replace(attempt(), metadata={JOB_KEY: "digits-1", ATTEMPT_KEY: number})
    (job,) = jobs_in([strange])
    assert job.next_number == 2


@pytest.fixture
def server() -> FakeRayJobsClient:
    names = ("digits-1", "digits-2", "digits", "mnist-1")
    return FakeRayJobsClient(*(attempt(name) for name in names))


@pytest.mark.parametrize(
    ("text", "job_id"),
    [("digits-1", "digits-1"), ("digits", "digits"), ("mni", "mnist-1"), ("mnist-1", "mnist-1")],
)
def test_a_job_is_found(server: FakeRayJobsClient, text: str, job_id: str) -> None:
    assert find_job(server, text).job_id == job_id


@pytest.mark.parametrize("text", ["", "m", "mn", "MNIST", "mnist-1.2", "mnist-12", "../x", "'"])
def test_a_job_is_not_found(server: FakeRayJobsClient, text: str) -> None:
    with pytest.raises(JobNotFound, match="has no job") as caught:
        find_job(server, text)
    assert ADDRESS in caught.value.message


def test_a_beginning_that_several_jobs_have(server: FakeRayJobsClient) -> None:
    with pytest.raises(JobNotFound, match="several jobs begin with 'digits-': digits-1, digits-2"):
        find_job(server, "digits-")


def test_the_nearest_name_is_told(server: FakeRayJobsClient) -> None:
    with pytest.raises(JobNotFound) as caught:
        find_job(server, "mnost-1")
    assert "mnist-1" in caught.value.hint
    with pytest.raises(JobNotFound) as caught:
        find_job(FakeRayJobsClient(), "mnist-1")
    assert caught.value.hint == "it has none at all"


def test_an_attempt_that_was_refused_does_not_say_how_the_job_is() -> None:
    stopped = attempt("digits-1", STOPPED, exit_code=143)
    refused = attempt("digits-1~2", FAILED, number=2, exit_code=2)
    (job,) = jobs_in([stopped, refused])
    assert (job.newest, job.counting, job.number) == (refused, stopped, 1)
    again = attempt("digits-1~3", RUNNING, number=3)
    (job,) = jobs_in([stopped, refused, again])
    assert (job.counting, job.number) == (again, 3)
    (job,) = jobs_in([attempt("digits-1", FAILED, exit_code=2)])
    assert job.counting is job.newest
