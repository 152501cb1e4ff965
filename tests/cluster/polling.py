"""Waiting for events in tests."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sumgrad.cluster.reducers.process import ProcessReducer
from sumgrad.cluster.transport.server import Event


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


def record_timeouts(reducer: ProcessReducer, monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """Return a list that receives the timeout of each wait of the driver for its workers."""
    timeouts: list[float | None] = []
    events = reducer._group.events

    def recorded(timeout: float | None) -> Iterator[Event]:
        timeouts.append(timeout)
        return events(timeout)

    monkeypatch.setattr(reducer._group, "events", recorded)
    return timeouts
