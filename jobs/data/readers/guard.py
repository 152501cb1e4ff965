"""Check free memory, and whether the run was asked to stop, between the blocks of a file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sumgrad.jobs.support.memory import available_bytes, check_memory_for_rows

_check_stop: ContextVar[Callable[[], None]] = ContextVar("_check_stop", default=lambda: None)


@contextmanager
def stoppable(check_stop: Callable[[], None]) -> Iterator[None]:
    """Call a function between blocks of data in this context; what it raises ends the reading."""
    token = _check_stop.set(check_stop)
    try:
        yield
    finally:
        _check_stop.reset(token)


def check_stop() -> None:
    """Raise if the context's function does."""
    _check_stop.get()()


class ReadGuard:
    """The memory that the rows of one file take, compared with the memory that was free before.

    The context's function is looked up by the constructor, because Arrow's threads call `add`.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._free = available_bytes()
        self._check_stop = _check_stop.get()
        self._size = 0

    def add(self, size: int) -> None:
        """Count bytes that are read, or about to be read, and `check` their sum."""
        self.check(self._size + size)

    def check(self, total: int) -> None:
        """Raise `DataError` if this number of bytes, of all rows so far, do not fit into memory."""
        self._check_stop()
        self._size = total
        check_memory_for_rows(total, self._file, free=self._free)
