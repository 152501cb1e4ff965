"""A small classification job, as the cluster's parts see it."""

import pytest

from tests.cluster.small_job import SmallJob, make_small_job


@pytest.fixture(scope="session")
def small_job() -> SmallJob:
    return make_small_job()
