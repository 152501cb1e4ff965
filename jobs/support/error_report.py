"""Errors as users see them: one line, a hint and an exit code; for scripts a JSON object too."""

import errno
import json
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

import typer

from sumgrad.jobs.support.logs import print_error_line, show_logs
from sumgrad.jobs.support.redaction import redact_text
from sumgrad.jobs.support.text import describe_error, one_line

if TYPE_CHECKING:
    from sumgrad.model.errors import SumgradError

_MAX_LENGTH = 1000  #: Longer messages, such as those that repeat a long argument, are cut.
_HINTS = {
    errno.ENOSPC: "free some space on that disk and try again",
    errno.EDQUOT: "free some of your disk quota and try again",
}


class ResultPrinted(Exception):
    """Raised from an error after a command has printed its own JSON object."""


def exit_code(error: "SumgradError") -> int:
    """Return the exit code of an error: its class's, or that of the nearest parent listed here."""
    # Here, because sumgrad.model imports NumPy.
    from sumgrad.cluster import errors as cluster
    from sumgrad.jobs import errors as jobs
    from sumgrad.model import errors as model

    if isinstance(error, jobs.Interrupted):
        return error.exit_code
    codes: dict[type, int] = {
        model.SumgradError: 1,
        model.ModelError: 2,
        cluster.ClusterError: 3,
        cluster.MicrobatchFailed: 1,
        cluster.CountMismatch: 1,
        cluster.Diverged: 1,
        jobs.JobError: 2,
        jobs.DataError: 1,
        jobs.ModelNotSaved: 1,
        jobs.TrackingError: 3,
        jobs.JobLost: 3,
        jobs.ServiceUnreachable: 3,
        jobs.VersionMismatch: 3,
    }
    return next(codes[kind] for kind in type(error).__mro__ if kind in codes)


def run_guarded(work: Callable[[], int], *, debug: bool, as_json: bool = False) -> int:
    """Call a function, report the error that it raises, and return the exit code of either.

    Until the function ends, log lines go to stderr. With ``as_json`` errors are reported on stdout
    too, as the JSON object on its last line.
    """
    try:
        with show_logs():
            return work()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the outermost handler
        if debug:
            print_error_line(traceback.format_exc())
        if isinstance(error, ResultPrinted) and error.__cause__ is not None:
            return _report(*_explain(error.__cause__), as_json=False)
        return _report(*_explain(error), as_json=as_json)


def _explain(error: BaseException) -> tuple[str, str, int]:
    """Return an error's message, its hint and its exit code."""
    from sumgrad.model.errors import SumgradError

    if isinstance(error, SumgradError):
        return error.message, error.hint, exit_code(error)
    if isinstance(error, typer.TyperException):
        return error.format_message(), "see --help", error.exit_code
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "interrupted", "", 130
    if isinstance(error, OSError) and error.strerror:
        return describe_error(error), _HINTS.get(error.errno or 0, ""), 1
    if isinstance(error, MemoryError):
        reason = str(error) or "no memory is left"
        return f"out of memory: {reason}", "use a smaller job or a larger machine", 1
    text = f"internal error: {type(error).__name__}: {error}"
    return text, "this is a defect of sumgrad; --debug shows where", 1


def _report(message: str, hint: str, code: int, *, as_json: bool) -> int:
    message, hint = (one_line(redact_text(text), _MAX_LENGTH) for text in (message, hint))
    print_error_line(f"error: {message}")
    if hint:
        print_error_line(f"hint: {hint}")
    if as_json:
        # stdout may be a closed pipe or a full disk.
        with suppress(OSError):
            value = {"error": message, "hint": hint or None, "exit_code": code}
            typer.echo(json.dumps(value))
    _flush()
    return code


def _flush() -> None:
    """Flush both streams, or redirect them, so that the interpreter does not fail at its exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            # A stream that was closed from the start is None.
            if stream is not None:
                stream.flush()
        except OSError:
            discard(stream)


def discard(stream: TextIO) -> None:
    """Send everything else that is written to a stream to /dev/null."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
