"""What sumgrad logs, as lines for the user of a command."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import typer

from sumgrad.jobs.support.redaction import redact_text

_PREFIXES = {logging.WARNING: "WARNING: ", logging.ERROR: "ERROR: "}


def print_error_line(text: str) -> None:
    """Print on stderr, without the secrets of addresses."""
    with suppress(OSError):
        typer.echo(redact_text(text.rstrip("\n")), err=True)


class _LineHandler(logging.Handler):
    """A handler that prints each record on one line, without the secrets of addresses."""

    write: Callable[[str], None] = staticmethod(print_error_line)

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
