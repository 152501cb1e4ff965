"""What a cluster runs for a submitted job, beside its request: ``-m jobs.service.entry``."""

import sys
from pathlib import Path

from jobs.cli.boundary import guarded, set_environment


def main() -> None:
    """Run the request of the current folder; exits with the job's code."""
    set_environment()

    def work() -> int:
        # Not before the environment stands, as it imports NumPy.
        from jobs.service.hosted import run
        from jobs.service.request import Request

        return run(Request.read(Path.cwd()))

    sys.exit(guarded(work, debug=False))


if __name__ == "__main__":
    main()
