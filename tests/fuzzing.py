"""How many cases the fuzz tests try: what a minute allows, and ``make fuzz`` many times that.

The same cases in every run, unless ``SUMGRAD_FUZZ=20`` asks for 20 times as many: then new ones.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, settings

from model.errors import SumgradError

TIMES = int(os.environ.get("SUMGRAD_FUZZ", "0"))


def cases(count: int) -> settings:
    """Try so many cases, or a multiple of them."""
    return settings(
        derandomize=not TIMES,
        database=None,
        deadline=None,
        max_examples=count * max(1, TIMES),
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


@contextmanager
def only(*declared: type[SumgradError]) -> Iterator[None]:
    """Nothing but these errors may come out, each of them one line."""
    try:
        yield
    except declared as error:
        assert error.message.strip()  # noqa: PT017 - there need not be one
        assert error.message.isprintable()  # noqa: PT017
