"""What a job has to find on its cluster, and how a cluster that has changed is noticed."""

from dataclasses import replace

import pytest

from sumgrad.jobs.errors import ServiceUnreachable
from sumgrad.jobs.service.client.expectation import (
    ANSWER_KEY,
    answer_digest,
    expect_unchanged,
    expected_of,
    is_outdated,
)
from sumgrad.jobs.service.client.jobs import jobs_in
from sumgrad.jobs.service.client.ray_api import FAILED, Attempt
from sumgrad.jobs.service.client.run_view import RunView
from sumgrad.jobs.service.client.status import reconcile
from sumgrad.jobs.service.versions import Versions
from tests.jobs.service.stand_ins import attempt

HERE = Versions("0.2.0", "here", "3.11", {"ray": "2.60.0", "numpy": "2.3.0", "mlflow": "3.17"})
THERE = Versions("0.1.0", "there", "3.12", {"ray": "2.60.0", "numpy": "2.2.0", "mlflow": "3.16"})


def test_what_is_expected_is_what_the_cluster_said_but_for_code_that_goes_along() -> None:
    assert expected_of(HERE, THERE, has_code=False) == THERE
    along = expected_of(HERE, THERE, has_code=True)
    assert along == replace(THERE, sumgrad="0.2.0", code="here")


def test_all_that_differs_is_named() -> None:
    with pytest.raises(ServiceUnreachable) as caught:
        expect_unchanged(THERE, HERE)
    assert caught.value.message == (
        "the cluster has changed since it was asked: sumgrad was 0.1.0 (there) and is 0.2.0 "
        "(here); Python was 3.12 and is 3.11; numpy was 2.2.0 and is 2.3.0"
    )
    assert "nothing was computed" in caught.value.hint
    expect_unchanged(THERE, THERE)


def ended(message: str, digest: str) -> Attempt:
    found = attempt("digits-1", FAILED, exit_code=3, message=message)
    return replace(found, metadata={**found.metadata, ANSWER_KEY: digest})


def test_an_answer_is_outdated_once_a_job_has_found_it_to_be() -> None:
    with pytest.raises(ServiceUnreachable) as caught:
        expect_unchanged(THERE, HERE)
    message = f"exit code 3, last available logs:\nerror: {caught.value.message}\n"
    digest = answer_digest(THERE)
    assert is_outdated(THERE, 0.0, [attempt(), ended(message, digest)])
    assert not is_outdated(HERE, 0.0, [ended(message, digest)]), "another answer than it relied on"
    assert not is_outdated(THERE, 0.0, [ended("the training failed", digest)])
    assert not is_outdated(THERE, 0.0, [attempt("digits-1", FAILED, message=message)])
    assert not is_outdated(THERE, 0.0, [])
    began = ended(message, digest).start_time
    assert began is not None
    assert is_outdated(THERE, began - 1, [ended(message, digest)])
    assert not is_outdated(THERE, began, [ended(message, digest)]), "it was given again since"
    assert is_outdated(THERE, began, [replace(ended(message, digest), start_time=None)])


def test_every_difference_is_another_answer() -> None:
    others = [
        *(replace(THERE, sumgrad="9"), replace(THERE, code="9"), replace(THERE, python="9")),
        *(replace(THERE, libraries=THERE.libraries | {name: "9"}) for name in THERE.libraries),
    ]
    assert len({answer_digest(each) for each in (THERE, *others)}) == len(others) + 1


def test_its_status_says_so() -> None:
    with pytest.raises(ServiceUnreachable) as caught:
        expect_unchanged(THERE, HERE)
    (job,) = jobs_in([ended(f"exit code 3\nerror: {caught.value.message}\n", "")])
    status = reconcile(job, RunView("uri"), 2000.0)
    assert (status.state, status.exit_code, status.can_resume) == (FAILED, 3, True)
    assert status.reason == "its cluster had changed since it was asked, and nothing was computed"
