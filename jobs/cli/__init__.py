"""The command line. Commands parse, call one library function, and print.

Nothing heavy is imported here: ``sumgrad --help`` answers in a blink.
"""

from jobs.cli.boundary import main

__all__ = ["main"]
