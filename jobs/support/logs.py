"""What sumgrad logs, as lines for the user of a command."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from sumgrad.jobs.support.redaction import redact_text

_PREFIXES = {logging.WARNING: "WARNING: ", logging.ERROR: "ERROR: "}


def _write_to_stderr(line: str) -> None:
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - the command line's own output


class _LineHandler(logging.Handler):
    """Passes each record on as one line, without the secrets of addresses."""

    write: Callable[[str], None] = staticmethod(_write_to_stderr)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        self.write(redact_text(_PREFIXES.get(record.levelno, "") + record.getMessage()))


_handler = _LineHandler()
_logger = logging.getLogger("sumgrad")


@contextmanager
def show_logs() -> Iterator[None]:
    """Write what sumgrad logs to stderr, from level INFO on."""
    level = _logger.level
    _logger.addHandler(_handler)
    _logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        _logger.removeHandler(_handler)
        _logger.setLevel(level)


@contextmanager
def logs_through(write: Callable[[str], None]) -> Iterator[None]:
    """Pass log lines to a progress display, from any thread, instead of to stderr."""
    before, _handler.write = _handler.write, write
    try:
        yield
    finally:
        _handler.write = before
