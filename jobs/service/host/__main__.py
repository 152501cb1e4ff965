"""Run a submitted job on the cluster: ``python -m sumgrad.jobs.service.host``."""

import sys
from pathlib import Path

from sumgrad.jobs.cli.errors import run_guarded, set_environment


def main() -> None:
    """Run the request of the current folder; exits with the job's code."""
    set_environment()

    def work() -> int:
        # Not before the environment stands, as it imports NumPy.
        from sumgrad.jobs.service.host.runner import run
        from sumgrad.jobs.service.manifest import JobManifest

        return run(JobManifest.read(Path.cwd()))

    sys.exit(run_guarded(work, debug=False))


if __name__ == "__main__":
    main()
