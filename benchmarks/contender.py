"""A contender lives in a process of its own and runs steps when it is asked to.

All of them stay alive during a comparison, so that their turns can alternate; the ones that are not
asked sleep. Asked with a line ``{"hidden": […], "batch": …, "steps": …}``, a contender answers with
the seconds of every step.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from benchmarks.cells import Cell

#: One BLAS thread in every process that computes, as each of them has a core of its own.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

#: Runs so many steps and gives the seconds of each.
RunSteps = Callable[[int], list[float]]


class Contender:
    """The asking side.

    Args:
        module: To be run with ``python -m``.
        arguments: Of it.
        environment: Beside this process's own.
        prefix: What comes before the command.
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
        """The seconds of each of so many steps."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"hidden": cell.hidden, "batch": cell.batch, "steps": steps}
        self._process.stdin.write(json.dumps(asked) + "\n")
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Closes stdin, which ends it, reads stdout to its end, and waits.
        self._process.communicate(timeout=60)


def answer(prepare: Callable[[Cell], RunSteps]) -> None:
    """The answering side: until stdin ends.

    Args:
        prepare: Makes ready for a cell; called again only when the cell changes.
    """
    current: Cell | None = None
    run: RunSteps | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        cell = Cell(tuple(asked["hidden"]), asked["batch"])
        if cell != current or run is None:
            current, run = cell, prepare(cell)
        print(json.dumps(run(asked["steps"])), flush=True)
