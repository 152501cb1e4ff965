"""Help of every command, which needs no large library."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.cli.commands import Sumgrad

COMMANDS = (
    *(["submit"], ["status"], ["logs"], ["stop"], ["wait"], ["delete"], ["doctor"], ["jobs"]),
    *(["resume"], ["cluster"], ["cluster", "add"], ["cluster", "use"]),
    *(["cluster", "remove"], ["cluster", "list"], ["cluster", "up"], ["cluster", "status"]),
    ["cluster", "down"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(command: list[str], sumgrad: Sumgrad) -> None:
    done = sumgrad(*command, "--help")
    assert done.code == 0
    assert f"Usage: sumgrad {' '.join(command)}" in done.out
    assert ("--json" in done.out) is (command != ["cluster"])
    assert done.err == ""


HEAVY = ("ray", "mlflow", "numpy", "pyarrow", "pandas", "yaml", "sklearn")


@pytest.mark.parametrize(
    "program",
    [
        "import sumgrad.jobs.cli.jobs, sumgrad.jobs.cli.cluster",
        "from sumgrad.jobs.cli.app import run; run(['--help'])",
        *(
            f"from sumgrad.jobs.cli.app import run; run(['{name}', '--help'])"
            for name in ("submit", "cluster", "doctor", "logs")
        ),
    ],
)
def test_help_imports_no_large_library(program: str) -> None:
    program = f"import sys; {program}; print('loaded:', *(m for m in {HEAVY} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip().splitlines()[-1] == "loaded:"
