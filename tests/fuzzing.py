"""How many cases the fuzz tests try: what a minute allows, and ``make fuzz`` many times that.

The same cases in every run, unless ``SUMGRAD_FUZZ=20`` asks for 20 times as many: then new ones.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from sumgrad.model.errors import SumgradError

TIMES = int(os.environ.get("SUMGRAD_FUZZ", "0"))
#: As `timeout` in pyproject.toml, for as many cases as there are without SUMGRAD_FUZZ.
SECONDS = 300
Test = TypeVar("Test", bound=Callable[..., Any])


def cases(count: int) -> Callable[[Test], Test]:
    """Try so many cases, or a multiple of them, for which there is as much more time."""
    tried = settings(
        derandomize=not TIMES,
        database=None,
        deadline=None,
        max_examples=count * max(1, TIMES),
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    in_time = pytest.mark.timeout(SECONDS * max(1, TIMES))

    def decorate(test: Test) -> Test:
        decorated: Test = in_time(tried(test))
        return decorated

    return decorate


@contextmanager
def only(*declared: type[SumgradError]) -> Iterator[None]:
    """Nothing but these errors may come out, each of them one line."""
    try:
        yield
    except declared as error:
        assert error.message.strip()  # noqa: PT017 - there need not be one
        assert error.message.isprintable()  # noqa: PT017
