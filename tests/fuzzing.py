"""How many cases the fuzz tests try: few in ``make test``, many in ``make fuzz``.

Without the environment variable ``SUMGRAD_FUZZ`` a test tries a twentieth of its cases, the same
ones in each run. With ``SUMGRAD_FUZZ=20`` it tries 20 times its cases, and new ones in each run.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from sumgrad.model.errors import SumgradError

TIMES = int(os.environ.get("SUMGRAD_FUZZ", "0"))
Test = TypeVar("Test", bound=Callable[..., Any])


def cases(count: int) -> Callable[[Test], Test]:
    """Return a decorator that runs a test with this number of cases, or a share or multiple."""
    tried = settings(
        derandomize=not TIMES,
        database=None,
        deadline=None,
        max_examples=count * TIMES or max(15, count // 20),
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    # Pytest's own timeout in pyproject.toml, per multiple.
    in_time = pytest.mark.timeout(300 * max(1, TIMES))

    def decorate(test: Test) -> Test:
        decorated: Test = in_time(tried(test))
        return decorated

    return decorate


@contextmanager
def only(*declared: type[SumgradError]) -> Iterator[None]:
    """Accept these errors, each with a message of one printable line, and no others."""
    try:
        yield
    except declared as error:
        assert error.message.strip()  # noqa: PT017 - there need not be one
        assert error.message.isprintable()  # noqa: PT017
