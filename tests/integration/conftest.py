"""One local Ray instance for each module that wants one, as sumgrad itself starts it."""

from collections.abc import Iterator

import pytest

from cluster.ray_session import ray_session


@pytest.fixture(scope="module")
def ray_cpus() -> Iterator[int]:
    """A local Ray with five CPUs to hand out, whatever the machine has."""
    with ray_session("local", 5):
        yield 5
