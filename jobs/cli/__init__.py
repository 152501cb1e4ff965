"""The command line. Commands parse, call one library function, and print.

Nothing heavy is imported here: ``sumgrad --help`` answers in a blink.
"""

import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line and exit with the promised code, however early it is interrupted."""
    try:
        from sumgrad.jobs.cli.errors import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)
