"""A contender: a process that runs training steps on request and reports their durations.

All contenders stay alive during a comparison, so that their turns can alternate; the others sleep.
A request is a line ``{"hidden": […], "batch": …, "steps": …}``, the reply a list of seconds.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from benchmarks.cells import Cell

#: One BLAS thread in every process that computes, because each process has one core.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

#: Runs a number of steps and returns the seconds of each.
RunSteps = Callable[[int], list[float]]


class Contender:
    """A contender as the comparison sees it.

    Args:
        module: Module to run with ``python -m``.
        arguments: Its arguments.
        environment: Additions to this process's environment.
        prefix: Command that runs the contender, such as ``ip netns exec``.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self._name = " ".join([module, *arguments])
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | ONE_THREAD | dict(environment or {}),
        )

    def steps(self, cell: Cell, steps: int) -> list[float]:
        """Run a number of steps and return the seconds of each."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"hidden": cell.hidden, "batch": cell.batch, "steps": steps}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        while True:
            line = self._process.stdout.readline()
            if not line:
                raise RuntimeError(f"{self._name} ended with {self._process.wait()}")
            if line.startswith("["):
                seconds: list[float] = json.loads(line)
                return seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Closing stdin ends the contender.
        self._process.communicate(timeout=60)


def serve(prepare: Callable[[Cell], RunSteps]) -> None:
    """Serve requests from stdin until it ends.

    Args:
        prepare: Prepares a cell; called only when the cell changes.
    """
    current: Cell | None = None
    run: RunSteps | None = None
    for line in sys.stdin:
        request = json.loads(line)
        cell = Cell(tuple(request["hidden"]), request["batch"])
        if cell != current or run is None:
            current, run = cell, prepare(cell)
        print(json.dumps(run(request["steps"])), flush=True)
