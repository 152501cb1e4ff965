"""Run a submitted job on the cluster: ``python -m sumgrad.jobs.service.host``."""

import sys
from pathlib import Path


def main() -> None:
    """Run the job whose manifest is in the current folder, and exit with its exit code."""
    try:
        from sumgrad.jobs.support.environment import limit_blas_threads

        limit_blas_threads()
        from sumgrad.jobs.service.host.runner import run
        from sumgrad.jobs.service.manifest import JobManifest
        from sumgrad.jobs.support.error_report import run_guarded
    except ModuleNotFoundError as error:
        print(  # noqa: T201 - the job's log; sumgrad's own reports need the missing module
            f"error: the cluster has other versions: {error.name} not installed\n"
            "hint: install the extra sumgrad[cluster] on all machines of the cluster",
            file=sys.stderr,
        )
        sys.exit(3)

    def attempt() -> int:
        run(JobManifest.read(Path.cwd()))
        return 0

    sys.exit(run_guarded(attempt, debug=False))


if __name__ == "__main__":
    main()
