"""The command line: commands parse, call one library function and print.

Heavy libraries are imported inside the commands, so that ``sumgrad --help`` answers at once.
"""

import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command line and exit with the documented code."""
    try:
        from sumgrad.jobs.cli.app import main as run

        run()
    except KeyboardInterrupt:
        # Ctrl-C while the modules above were still being imported.
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)
