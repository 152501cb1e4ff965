"""The one place where errors become a line, a hint and an exit code."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

import typer

#: Read by NumPy's BLAS when it is loaded, so they stand before anything imports NumPy.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def main() -> NoReturn:
    """Run the command line and exit with the promised code."""
    set_environment()
    arguments = sys.argv[1:]
    debug = "--debug" in arguments or bool(os.environ.get("SUMGRAD_DEBUG"))
    sys.exit(run([item for item in arguments if item != "--debug"], debug=debug))


def set_environment() -> None:
    """Set what has to stand before NumPy is imported; whoever has set it is obeyed."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def run(arguments: list[str], *, debug: bool = False) -> int:
    """Run a command.

    Args:
        arguments: Without the program's name.
        debug: Show tracebacks.

    Returns:
        The exit code.
    """
    from jobs.cli.commands import app

    command = typer.main.get_command(app)

    def work() -> int:
        code = command.main(arguments, prog_name="sumgrad", standalone_mode=False)
        return code if isinstance(code, int) else 0

    return guarded(work, debug=debug)


def guarded(work: Callable[[], int], *, debug: bool) -> int:
    """Do something; whatever it raises becomes a line, a hint and an exit code.

    Args:
        work: Gives an exit code.
        debug: Show tracebacks.
    """
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - this is the boundary
        if debug:
            _tell_line_by_line(traceback.format_exc())
        return _explain(error)


def _explain(error: Exception) -> int:
    """Print an error as one line and a hint; give its exit code."""
    from model.errors import SumgradError

    if isinstance(error, SumgradError):
        return _tell(error.message, error.hint, error.exit_code)
    if isinstance(error, typer.TyperException):
        return _tell(error.format_message(), "see --help", error.exit_code)
    if isinstance(error, typer.Abort):
        return _tell("interrupted", "", 130)
    if isinstance(error, OSError) and error.filename:
        return _tell(f"{error.filename}: {error.strerror}", "", 1)
    if isinstance(error, MemoryError):
        reason = str(error) or "there is none left"
        return _tell(f"out of memory: {reason}", "a smaller job, or a larger machine", 1)
    text = f"internal error: {type(error).__name__}: {error}"
    return _tell(text, "this is a defect of sumgrad; --debug shows where", 1)


def _tell(message: str, hint: str, code: int) -> int:
    _tell_line_by_line(f"error: {' '.join(message.split())}")
    if hint:
        _tell_line_by_line(f"hint: {' '.join(hint.split())}")
    return code


def _tell_line_by_line(text: str) -> None:
    """Print on stderr, without the secrets of any address, whoever wrote the text."""
    from jobs.tracking import redact_text

    typer.echo(redact_text(text.rstrip("\n")), err=True)
