"""Waiting for events in tests."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until a condition holds; a busy machine may take a while."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


@contextmanager
def on_log(start: str, action: Callable[[], None]) -> Iterator[None]:
    """Act once a line with this start is logged."""

    class Acting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith(start):
                action()

    logger, handler = logging.getLogger("sumgrad"), Acting()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
