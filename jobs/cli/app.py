"""The program ``sumgrad``: its groups of commands, its help, and how it starts and ends."""

import inspect
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from sumgrad.jobs.cli import cluster, jobs, models, spec, train
from sumgrad.jobs.support.environment import limit_blas_threads, misspelled_variables
from sumgrad.jobs.support.error_report import discard, run_guarded
from sumgrad.jobs.support.logs import print_error_line

#: The exit code that a shell gives to a process whose reader has closed the pipe: 128 + SIGPIPE.
_BROKEN_PIPE = 141
#: The groups of ``sumgrad --help``, in their order.
GROUPS = {
    "Train": train.app,
    "Models": models.app,
    "Jobs": jobs.app,
    "Clusters": cluster.app,
    "Spec": spec.app,
}


class Program(TyperGroup):
    """The root command; it reports interrupts and closed pipes, which Typer would swallow."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the command line."""
        try:
            return super().make_context(*args, **kwargs)
        except KeyboardInterrupt:
            raise typer.Abort from None

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Abort from None
        except BrokenPipeError:
            discard(sys.stdout)
            raise typer.Exit(_BROKEN_PIPE) from None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands in their groups where the help is plain text."""
        commands = [self.commands[name] for name in self.list_commands(ctx)]
        width = max(len(command.name or "") for command in commands)
        for group in GROUPS:
            rows = [
                ((each.name or "").ljust(width), each.get_short_help_str(formatter.width))
                for each in commands
                if getattr(each, "rich_help_panel", None) == group
            ]
            with formatter.section(group):
                formatter.write_dl(rows)


_SETTINGS = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(cls=Program, pretty_exceptions_enable=False, context_settings=_SETTINGS)


def _add_groups() -> None:
    """Add the groups' commands to the program, each under its heading."""
    for heading, group in GROUPS.items():
        _unwrap_help(group)
        for command in group.registered_commands:
            command.rich_help_panel = heading
        for subgroup in group.registered_groups:
            subgroup.rich_help_panel = heading
        app.registered_commands += group.registered_commands
        app.registered_groups += group.registered_groups


def _unwrap_help(group: typer.Typer) -> None:
    """Join the lines of each paragraph of the docstrings, which Rich would keep."""
    for command in group.registered_commands:
        paragraphs = inspect.getdoc(command.callback) or ""
        command.help = "\n\n".join(" ".join(p.split()) for p in paragraphs.split("\n\n"))
    for subgroup in group.registered_groups:
        if subgroup.typer_instance is not None:
            _unwrap_help(subgroup.typer_instance)


_add_groups()


@app.callback(invoke_without_command=True)
def sumgrad(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    _debug: Annotated[
        bool, typer.Option("--debug", help="Print tracebacks of errors; allowed anywhere.")
    ] = False,
) -> None:
    """Distributed data-parallel training: the same weights for any number of workers."""
    # `main` removes --debug from the arguments; it is declared here for the help.
    if version:
        from importlib import metadata

        typer.echo(f"sumgrad {metadata.version('sumgrad')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> NoReturn:
    """Run the command line and exit with the documented code."""
    limit_blas_threads()
    for line in misspelled_variables(os.environ):
        print_error_line(f"note: {line}")
    arguments = sys.argv[1:]
    debug = "--debug" in arguments or bool(os.environ.get("SUMGRAD_DEBUG"))
    arguments = [argument for argument in arguments if argument != "--debug"]
    # A second Ctrl-C does not interrupt the exit of Ray and of the interpreter.
    ignore_interrupts = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    sys.exit(run(arguments, debug=debug, at_end=ignore_interrupts))


def run(
    arguments: list[str], *, debug: bool = False, at_end: Callable[[], object] = lambda: None
) -> int:
    """Run a command, call ``at_end`` when it has ended or failed, and return its exit code."""

    def work() -> int:
        app.rich_markup_mode = "rich" if sys.stdout is not None and sys.stdout.isatty() else None
        command = typer.main.get_command(app)
        try:
            code = command.main(arguments, prog_name="sumgrad", standalone_mode=False)
        finally:
            at_end()
        return code if isinstance(code, int) else 0

    # What follows -- is no option.
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return run_guarded(work, debug=debug, as_json="--json" in options)
