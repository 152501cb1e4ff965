"""Run a submitted job on the cluster: ``python -m sumgrad.jobs.service.host``."""

import sys
from pathlib import Path

from sumgrad.jobs.cli.environment import limit_blas_threads
from sumgrad.jobs.cli.errors import run_guarded


def main() -> None:
    """Run the request of the current folder; exits with the job's code."""
    limit_blas_threads()

    def work() -> int:
        # Here, because these import NumPy.
        from sumgrad.jobs.service.host.runner import run
        from sumgrad.jobs.service.manifest import JobManifest

        return run(JobManifest.read(Path.cwd()))

    sys.exit(run_guarded(work, debug=False))


if __name__ == "__main__":
    main()
