"""The one place where errors become a line, a hint and an exit code; for scripts also JSON."""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn, TextIO

import typer
from typer.core import TyperGroup

from sumgrad.jobs.cli.environment import misspelled_variables

#: Read by NumPy's BLAS when it is loaded, so they stand before anything imports NumPy.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
#: Characters of an error; whoever gives a name of thousands knows it.
_LONGEST = 1000
#: As a shell has it, for who writes to somebody who has gone: 128 and the signal's number.
_NOBODY_READS = 141


class ResultPrinted(Exception):
    """How a command ended that has printed its own JSON object; the cause is the error."""


class Commands(TyperGroup):
    """The commands of the program; typer would end two things by itself, and say nothing."""

    def make_context(self, *arguments: Any, **more: Any) -> Any:
        """Read what follows the program's name."""
        try:
            return super().make_context(*arguments, **more)
        except KeyboardInterrupt:
            raise typer.Abort from None

    def invoke(self, ctx: Any) -> Any:
        """Run the one that was named."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Abort from None
        except BrokenPipeError:
            _let_go_of(sys.stdout)
            raise typer.Exit(_NOBODY_READS) from None


class _Told(NamedTuple):
    """What is said of an error."""

    message: str
    hint: str
    code: int


_INTERRUPTED = _Told("interrupted", "", 130)


def main() -> NoReturn:
    """Run the command line and exit with the promised code."""
    set_environment()
    for line in misspelled_variables(os.environ):
        _tell_line_by_line(f"note: {line}")
    arguments = sys.argv[1:]
    debug = "--debug" in arguments or bool(os.environ.get("SUMGRAD_DEBUG"))
    code = run([item for item in arguments if item != "--debug"], debug=debug, at_end=_be_deaf)
    sys.exit(code)


def _be_deaf() -> None:
    """Have a second Ctrl-C not interrupt what Ray and the interpreter do at the very end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def set_environment() -> None:
    """Set what has to stand before NumPy is imported; whoever has set it is obeyed."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def run(
    arguments: list[str], *, debug: bool = False, at_end: Callable[[], None] = lambda: None
) -> int:
    """Run a command.

    Args:
        arguments: Without the program's name.
        debug: Show tracebacks.
        at_end: Called as soon as it has ended, however it did.

    Returns:
        The exit code.
    """

    def work() -> int:
        from sumgrad.jobs.cli.train import app

        command = typer.main.get_command(app)
        try:
            code = command.main(arguments, prog_name="sumgrad", standalone_mode=False)
        finally:
            at_end()
        return code if isinstance(code, int) else 0

    return run_guarded(work, debug=debug, as_json=_is_for_a_script(arguments))


def _is_for_a_script(arguments: Sequence[str]) -> bool:
    """Whether JSON was asked for; what follows ``--`` is no option."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def run_guarded(work: Callable[[], int], *, debug: bool, as_json: bool = False) -> int:
    """Do something; whatever it raises becomes a line, a hint and an exit code.

    Args:
        work: Gives an exit code.
        debug: Show tracebacks.
        as_json: Say it on stdout too, as the JSON object that is the last line there.
    """
    try:
        return work()
    except KeyboardInterrupt:
        return _tell(_INTERRUPTED, as_json=as_json)
    except Exception as error:  # noqa: BLE001 - this is the boundary
        if debug:
            _tell_line_by_line(traceback.format_exc())
        if isinstance(error, ResultPrinted) and isinstance(error.__cause__, Exception):
            return _tell(_explained(error.__cause__), as_json=False)
        return _tell(_explained(error), as_json=as_json)


def _explained(error: Exception) -> _Told:
    """An error as one line, a hint and an exit code."""
    from sumgrad.model.errors import SumgradError

    if isinstance(error, SumgradError):
        return _Told(error.message, error.hint, error.exit_code)
    if isinstance(error, typer.TyperException):
        return _Told(error.format_message(), "see --help", error.exit_code)
    if isinstance(error, typer.Abort):
        return _INTERRUPTED
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return _Told(f"{where}{error.strerror}", "", 1)
    if isinstance(error, MemoryError):
        reason = str(error) or "there is none left"
        return _Told(f"out of memory: {reason}", "a smaller job, or a larger machine", 1)
    text = f"internal error: {type(error).__name__}: {error}"
    return _Told(text, "this is a defect of sumgrad; --debug shows where", 1)


def _tell(told: _Told, *, as_json: bool) -> int:
    message, hint = (_without_secrets(text) for text in (told.message, told.hint))
    _tell_line_by_line(f"error: {message}")
    if hint:
        _tell_line_by_line(f"hint: {hint}")
    if as_json:
        # Whoever reads it may be the one who has gone, or whose disk is full.
        with suppress(OSError):
            facts = {"error": message, "hint": hint or None, "exit_code": told.code}
            typer.echo(json.dumps(facts))
    _expect_written()
    return told.code


def _without_secrets(text: str) -> str:
    """A text in one line, and without the secrets of any address, whoever wrote it."""
    from sumgrad.jobs.tracking import redact_text

    line = redact_text(" ".join(text.split()))
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} …"


def _tell_line_by_line(text: str) -> None:
    """Print on stderr, without the secrets of any address, whoever wrote the text."""
    from sumgrad.jobs.tracking import redact_text

    with suppress(OSError):
        typer.echo(redact_text(text.rstrip("\n")), err=True)


def _expect_written() -> None:
    """Have the interpreter not stumble, at its end, over what could not be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            # There is none where it was closed from the start.
            if stream is not None:
                stream.flush()
        except OSError:
            _let_go_of(stream)


def _let_go_of(stream: TextIO) -> None:
    """Have everything that is still written there go nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
