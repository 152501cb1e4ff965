"""How a step's cost grows, with workers, parameters and rows: ``python -m benchmarks.growth``.

A step of a tiny network consists of coordination, one with few rows is dominated by the parameters,
one with many rows by arithmetic. Writes a plot and the numbers.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.cells import Cell
from benchmarks.compare import machine
from benchmarks.contender import Contender

WORKERS = (1, 2, 4, 8)
#: Microbatches of 32 rows, so that each of eight workers has one.
TINY = Cell((1,), 256)
WIDTHS = (12, 128, 1024, 5_000, 25_000)
ROWS = (64, 256, 1024, 4096, 16_384)

Curve = list[tuple[int, float]]


def milliseconds(contender: Contender, cell: Cell, steps: int, turns: int) -> float:
    """Return the median duration of a step."""
    contender.steps(cell, 5)
    seconds = [second for _ in range(turns) for second in contender.steps(cell, steps)]
    return 1e3 * statistics.median(seconds)


def with_workers(turns: int) -> Curve:
    """Measure coordination: more workers, almost no arithmetic."""
    curve = []
    for workers in WORKERS:
        with Contender("benchmarks.sumgrad_steps", "ray", str(workers), "32") as contender:
            curve.append((workers, milliseconds(contender, TINY, 500, turns)))
        print(f"workers {curve[-1]}", file=sys.stderr, flush=True)
    return curve


def with_parameters(contender: Contender, turns: int) -> Curve:
    """Measure more parameters with 64 rows per step."""
    curve = []
    for width in WIDTHS:
        cell = Cell((width,), 64)
        steps = max(4, 20_000_000 // cell.parameters)
        curve.append((cell.parameters, milliseconds(contender, cell, min(400, steps), turns)))
        print(f"parameters {curve[-1]}", file=sys.stderr, flush=True)
    return curve


def with_rows(contender: Contender, turns: int) -> Curve:
    """Measure more rows per step with one hidden layer of 128 units."""
    curve = []
    for rows in ROWS:
        steps = max(4, 50_000 // rows)
        curve.append((rows, milliseconds(contender, Cell((128,), rows), steps, turns)))
        print(f"rows {curve[-1]}", file=sys.stderr, flush=True)
    return curve


def fit_line(curve: Curve) -> tuple[float, float]:
    """Return intercept and slope in milliseconds, with the smallest squared relative error."""
    x, y = (np.array(part, dtype=float) for part in zip(*curve, strict=True))
    columns = np.stack([np.ones_like(x), x], axis=1) / y[:, None]
    (start, slope), *_ = np.linalg.lstsq(columns, np.ones_like(y), rcond=None)
    return float(start), float(slope)


def plot(curves: Sequence[tuple[str, Curve, bool]], path: Path) -> None:
    """Plot each curve with its fitted line."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "sumgrad"
    figure, all_axes = plt.subplots(1, len(curves), figsize=(11, 3.5))
    for axes, (title, curve, logarithmic) in zip(all_axes, curves, strict=True):
        x, y = zip(*curve, strict=True)
        start, slope = fit_line(curve)
        axes.plot(x, y, "o", label="measured")
        fine = np.geomspace(min(x), max(x), 100)
        axes.plot(fine, start + slope * fine, label=f"{start:.2g} ms + {slope:.2g} ms each")
        if logarithmic:
            axes.set_xscale("log")
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(title)
        axes.set_ylabel("ms a step")
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main(
    out: Annotated[Path, typer.Option(help="Directory for the plot and the numbers.")],
    turns: Annotated[int, typer.Option(help="Turns of each measurement.")] = 3,
) -> None:
    """Run the measurements and write the results."""
    workers = with_workers(turns)
    with Contender("benchmarks.sumgrad_steps", "ray", "2") as contender:
        parameters = with_parameters(contender, turns)
        rows = with_rows(contender, turns)
    out.mkdir(parents=True, exist_ok=True)
    curves = [
        ("workers", workers, False),
        ("parameters", parameters, True),
        ("rows", rows, True),
    ]
    plot(curves, out / "growth.svg")
    numbers = {title: dict(curve) for title, curve, _ in curves}
    (out / "growth.json").write_text(json.dumps({"machine": machine()} | numbers, indent=1) + "\n")
    for title, curve, _ in curves:
        start, slope = fit_line(curve)
        print(f"{title}: {start:.3g} ms + {slope:.3g} ms each")


if __name__ == "__main__":
    typer.run(main)
